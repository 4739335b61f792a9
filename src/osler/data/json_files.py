"""JSON as strangers write it: byte order marks and CRLF are fine, everything else wrong is named by line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from osler.errors import BadInput

_STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|(-?Infinity|NaN)')


class _NotANumber(ValueError):
    """NaN or an infinity stood where JSON wants a value."""


def _reject_constant(name: str) -> NoReturn:
    raise _NotANumber(name)


def _line_of_constant(text: str) -> int:
    for match in _STRING_OR_CONSTANT.finditer(text):
        if match.group(1):
            return text.count("\n", 0, match.start()) + 1
    return 1


def read_text(path: Path) -> str:
    """The file's text without a byte order mark, line ends as "\\n".

    Raises BadInput for a file that cannot be read or is not UTF-8 (naming the byte offset).
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # "utf-8-sig" counts from behind the byte order mark.
        offset = error.start + (3 if raw.startswith(b"\xef\xbb\xbf") else 0)
        line = raw.count(b"\n", 0, offset) + 1
        raise BadInput(f"{path}: not UTF-8 at byte {offset} (line {line}); save the file as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


@dataclass(frozen=True, slots=True)
class JsonFault:
    """Why a text is no JSON, and where in it.

    >>> str(parse_json('{"a": 1,\\n "b": NaN}'))
    'line 2: NaN is not JSON; write null or a text instead'
    """

    line: int  # from 1
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


def parse_json(text: str) -> Any:
    """One JSON value, or a `JsonFault`; NaN and Infinity are no JSON."""
    try:
        return json.loads(text, parse_constant=_reject_constant)
    except json.JSONDecodeError as error:
        return JsonFault(error.lineno, f"not JSON ({error.msg}, column {error.colno}); fix the file")
    except _NotANumber as error:
        return JsonFault(_line_of_constant(text), f"{error} is not JSON; write null or a text instead")
    except RecursionError:
        return JsonFault(1, "nested too deeply to be a question file; fix the file")
    except ValueError:
        # What is left is Python's cap on the digits of an integer.
        return JsonFault(1, "holds a number of thousands of digits; fix the file")


def read_json_list(path: Path) -> list[Any]:
    """A file that is one JSON list. Raises BadInput where it is anything else."""
    value = parse_json(read_text(path))
    if isinstance(value, JsonFault):
        raise BadInput(f"{path} {value}")
    if not isinstance(value, list):
        raise BadInput(f"{path}: holds a JSON {_kind(value)}, not a list of questions; give a question file")
    return value


def iterate_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Line number (from 1) and value, or `JsonFault`, of every line that is not blank."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            value = parse_json(line)
            yield number, JsonFault(number, value.reason) if isinstance(value, JsonFault) else value


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "object"
    return {str: "text", bool: "boolean", type(None): "null"}.get(type(value), "number")
