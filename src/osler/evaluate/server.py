"""Where a server that answers questions is, and how it is asked: `openai:URL#name` and its options."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from osler.errors import BadInput

SCHEME = "openai:"
KEY_VARIABLE = "OSLER_API_KEY"
LIMIT_PARAMETERS = ("max_completion_tokens", "max_tokens")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a model is served, and under which name.

    >>> Address.parse("openai:http://127.0.0.1:8000/v1#phantom-base")
    Address(url='http://127.0.0.1:8000/v1', name='phantom-base')
    """

    url: str  # up to and without "/chat/completions"
    name: str

    @classmethod
    def parse(cls, model: str) -> Address:
        """Raises BadInput for anything but `openai:URL#name` with a plain http or https URL."""
        url, _, name = model.removeprefix(SCHEME).partition("#")
        form = "write openai:URL#name, e.g. openai:http://127.0.0.1:8000/v1#my-model"
        try:
            parts = urlsplit(url)
            host = parts.hostname
        except ValueError:
            host = None
        if not host or parts.scheme not in ("http", "https") or not name:
            raise BadInput(f"model {SCHEME}…: no http(s) address with a model name behind #; {form}")
        if parts.username or parts.password or parts.query:
            raise BadInput(
                f"model {SCHEME}{parts.scheme}://{host}…: a user, password or query in the address would be "
                f"stored with the results; put the key into ${KEY_VARIABLE}"
            )
        return cls(url.rstrip("/").removesuffix("/chat/completions"), name)

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def digest(self) -> str:
        """What stands for the weights, which nobody outside the server can verify."""
        return f"unverifiable:{self.url}#{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointOptions:
    """How a server is asked. Raises BadInput for a value that makes no sense."""

    concurrency: int = 8  # requests at a time
    timeout_seconds: float = 120.0  # of one request, from connecting to its last byte
    attempts: int = 6  # requests per question before it is an error
    key_variable: str = KEY_VARIABLE
    limit_parameter: str = LIMIT_PARAMETERS[0]
    # Of a million prompt tokens and of a million completion tokens; empty where nobody said.
    prices: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.attempts < 1 or self.timeout_seconds <= 0:
            raise BadInput("--concurrency, --attempts and --timeout: must be at least 1 (seconds above 0)")
        if self.limit_parameter not in LIMIT_PARAMETERS:
            raise BadInput(f"--limit-parameter {self.limit_parameter}: {' or '.join(LIMIT_PARAMETERS)}")
        if self.prices and (len(self.prices) != 2 or min(self.prices) < 0):
            raise BadInput("--prices: two numbers that are not negative")
        if not _VARIABLE_NAME.fullmatch(self.key_variable):  # not repeated: it may be the key itself
            raise BadInput("--key-variable: is the name of an environment variable, never the key itself")

    @property
    def key(self) -> str:
        """The key, "" where the variable is not set. Raises BadInput where it cannot be a header's value."""
        key = os.environ.get(self.key_variable, "").strip()
        if not key.isascii() or not key.isprintable():
            raise BadInput(f"${self.key_variable}: holds characters that no key has; set it again")
        return key

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """What so many tokens cost; None where nobody said what a token costs.

        >>> EndpointOptions(prices=(2.0, 10.0)).cost(1_000_000, 200_000)
        4.0
        """
        if not self.prices:
            return None
        return (prompt_tokens * self.prices[0] + completion_tokens * self.prices[1]) / 1e6
