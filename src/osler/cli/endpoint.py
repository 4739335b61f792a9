"""The options of a model behind a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from osler.evaluate.server import EndpointOptions

_PANEL = "Options of openai:URL#name"


def _option(text: str, **more: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=_PANEL, **more)


Concurrency = Annotated[int | None, _option("Requests at a time; default 8.")]
Timeout = Annotated[float | None, _option("Seconds for one request; default 120.", metavar="SECONDS")]
Attempts = Annotated[int | None, _option("Requests per question, later each time; default 6.")]
KeyVariable = Annotated[
    str | None, _option("Environment variable that holds the key; default OSLER_API_KEY.", metavar="NAME")
]
LimitParameter = Annotated[
    str | None, _option("What limits tokens there: max_completion_tokens (default) or max_tokens.")
]
Prices = Annotated[
    tuple[float, float] | None,
    _option("Price of a million prompt tokens and of a million completion tokens.", metavar="IN OUT"),
]


def endpoint_options(**given: Any) -> EndpointOptions | None:
    """What was given, None where nothing was. Raises BadInput for a value that makes no sense."""
    chosen = {name: value for name, value in given.items() if value is not None}
    if not chosen:
        return None
    from osler.evaluate.server import EndpointOptions

    return EndpointOptions(**chosen)
