"""The command line.

Results go to stdout, all else to stderr. Exit codes: 0 done, 1 failed, 2 bad input or usage, 130 or 143
stopped by a signal after saving.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

import typer

from osler.cli import audit as audit  # registers its command, as the next line does
from osler.cli import doctor as doctor
from osler.cli import evaluation as evaluation
from osler.cli import study as study
from osler.cli.commands import app
from osler.cli.output import Terminated
from osler.errors import BadInput

# Older versions of typer take this class from click, newer ones bring their own.
USAGE_ERROR = typer.BadParameter.__mro__[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    with contextlib.suppress(ValueError):  # only the main thread may handle signals
        signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(args=None if arguments is None else list(arguments), standalone_mode=False)
        return code if isinstance(code, int) else 0
    except BadInput as error:
        return _complain(error, 2)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        return _complain(error, 1)
    except Exception as error:
        return _failed(error)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _failed(error: Exception) -> int:
    if isinstance(error, typer.Abort):
        return 130
    if isinstance(error, USAGE_ERROR):
        return _usage(error)
    # Stopped by a signal and saved: output.Interrupted or signals.Stop.
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return _complain(error, code)
    traceback.print_exception(error)
    return _complain(f"failed: {error!r}", 1)


def _usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    message = error.format_message()  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)
        return 2
    command = "osler" if context is None else context.command_path
    return _complain(f"{message.rstrip('.')}; see {command} --help", 2)


def _complain(error: object, code: int) -> int:
    print(f"osler: {' '.join(str(error).split())}", file=sys.stderr)
    return code
