"""Where a command's words go: the result to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where the program stands, so that Ctrl-C and SIGTERM are saved by the same code."""


class Interrupted(Exception):
    """A command was stopped by a signal; what was done so far is on disk."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("stopped; what was finished is saved, the same command goes on from there")
        self.exit_code = exit_code


def _without_weight_bars() -> None:
    """Keep transformers from drawing a bar each time that it reads or writes weights.

    Bars of downloads stay: there is something to wait for. HF_HUB_DISABLE_PROGRESS_BARS, where set, decides
    about both.
    """
    if "HF_HUB_DISABLE_PROGRESS_BARS" in os.environ:
        return
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging

    logging.disable_progress_bar()  # takes those of the hub along
    enable_progress_bars()


class Output:
    """Keeps stdout for the result: while a command works, whatever it prints goes to stderr.

    `with_model` says that the command loads a model, which brings transformers along.
    """

    def __init__(self, as_json: bool, with_model: bool = False) -> None:
        self.as_json = as_json
        self._with_model = with_model
        self._stdout = sys.stdout
        self._redirect = contextlib.redirect_stdout(sys.stderr)

    def __enter__(self) -> Output:
        self._redirect.__enter__()
        if self._with_model:
            _without_weight_bars()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._redirect.__exit__(kind, error, trace)
        if isinstance(error, KeyboardInterrupt):
            # The command-line library would turn both signals into one exit code.
            raise Interrupted(143 if isinstance(error, Terminated) else 130) from error

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)

    def result(self, values: Any, shown: str | Callable[[Console], None] | None = None) -> None:
        """Print the result: as JSON, else as given, else its plain values line by line.

        Of several processes started by torchrun the first one speaks for all.
        """
        if os.environ.get("RANK", "0") != "0":
            return
        if self.as_json:
            print(json.dumps(values, default=str), file=self._stdout, flush=True)
            return
        from rich.console import Console

        console = Console(file=self._stdout)
        if shown is None:
            for key, value in values.items():
                console.print(f"{key}: {value}", markup=False, highlight=False)
        elif isinstance(shown, str):
            console.print(shown, markup=False, highlight=False)
        else:
            shown(console)

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A bar on stderr; call it with what is done and the total."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bar: Progress | None = None

        def advance(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:  # only now: what fails before its first step, or has none, shows no bar
                bar = Progress(*columns, console=Console(stderr=True))
                bar.add_task(what)
                bar.start()
            bar.update(bar.task_ids[0], completed=done, total=total)

        try:
            yield advance
        finally:
            if bar is not None:
                bar.stop()
