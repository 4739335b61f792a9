"""Where this process runs: device, rank, and the few collectives that training needs.

Data-parallel over questions. Each process computes the gradient of its own questions, already divided by
the denominators of the whole step; one summing all-reduce per step makes it the gradient of the step.
Because that is the only collective on gradients, ranks may run different numbers of micro-batches.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

T = TypeVar("T")
BUCKET_ELEMENTS = 2**26  # gradients are reduced in flat buckets of this many numbers


@dataclass(frozen=True)
class World:
    """This process among all."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part of `items`: every `size`-th one."""
        return list(items[self.rank :: self.size])

    def gather(self, value: T) -> list[T]:
        """The value of every process, in rank order, on every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def merge(self, items: Sequence[T]) -> list[T]:
        """Undo `share`: every process's part back in the original order, on every process."""
        parts = self.gather(list(items))
        merged: list[Any] = [None] * sum(len(p) for p in parts)
        for rank, part in enumerate(parts):
            merged[rank :: self.size] = part
        return merged

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum gradients over processes, in place; a parameter without one counts as zero."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        bucket: list[torch.Tensor] = []
        held = 0
        for parameter in parameters:
            assert parameter.grad is not None
            bucket.append(parameter.grad)
            held += parameter.grad.numel()
            if held >= BUCKET_ELEMENTS:
                _reduce_bucket(bucket)
                bucket, held = [], 0
        if bucket:
            _reduce_bucket(bucket)

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


def _reduce_bucket(gradients: list[torch.Tensor]) -> None:
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    at = 0
    for gradient in gradients:
        gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()


@contextlib.contextmanager
def process_world() -> Iterator[World]:
    """The world of a plain process, or of one started by torchrun (which sets RANK and WORLD_SIZE)."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    cuda = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield World(rank, size, device)
    finally:
        if size > 1:
            dist.destroy_process_group()
