"""The command that looks at this machine: doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from osler.cli.commands import Json, Overrides, app
from osler.cli.output import Output


@app.command()
def doctor(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, or a TOML file.")
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Check this machine, measure what it can do, and predict the time and memory of a recipe's step."""
    with Output(as_json, with_model=True) as output:
        from osler.doctor import examine, print_report

        report = examine(recipe, overrides or [])
        output.result(report, lambda console: print_report(report, console))
    if not report["ok"]:
        raise typer.Exit(1)
