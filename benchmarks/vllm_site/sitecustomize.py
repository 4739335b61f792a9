"""Start-up file of the vLLM environment: lets torchvision import beside a CPU build of torch.

The registry's torchvision is compiled for CUDA; its library does not load there, and the import then fails
because it describes two operators that nobody declared. They are declared when torchvision is first imported;
nothing here calls them.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class DeclareOperators(importlib.abc.MetaPathFinder):
    """Steps aside after the first import of torchvision."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                self.library.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
            _kept.append(self)  # the declarations last as long as the library object
        return None


_kept: list[DeclareOperators] = []
sys.meta_path.insert(0, DeclareOperators())
