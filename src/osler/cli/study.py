"""The command that runs a whole study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from osler.cli.commands import Json, Overrides, app
from osler.cli.output import Interrupted, Output


@app.command()
def study(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a shipped study, or a TOML file.")],
    out: Annotated[Path, typer.Option(help="Folder for data, runs and report; the same one to go on.")],
    overrides: Overrides = None,
    launcher: Annotated[
        str, typer.Option(help="local: processes of this machine; ray: a Ray cluster.")
    ] = "local",
    workers: Annotated[int, typer.Option(help="Jobs at a time; 0: one per GPU, else one per core.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the jobs and how long they will take; run nothing.")
    ] = False,
    print_commands: Annotated[
        bool, typer.Option("--print-commands", help="Print every job as a shell line; run nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """All trainings and evaluations behind one table; interrupted, the same command goes on."""
    with Output(as_json, with_model=True) as output:
        from osler.study.conduct import Conducted, Request, conduct
        from osler.study.table import print_plan, print_study

        request = Request(
            recipe=recipe,
            out=out,
            overrides=tuple(overrides or ()),
            launcher=launcher,
            workers=workers,
            dry_run=dry_run or print_commands,
        )
        found: Conducted = conduct(request, note=output.note)
        if print_commands:
            lines = found.shell_lines()

            def show(console: Any) -> None:
                for line in lines:
                    console.print(line, soft_wrap=True, markup=False, highlight=False)

            output.result({"commands": lines}, show)
        elif dry_run:
            output.result(found.plan_to_json(), lambda console: print_plan(found, console))
        else:
            output.result(found.to_json(), lambda console: print_study(found, console))
    _leave(found)


def _leave(found: Any) -> None:
    if found.stopped_by is not None:
        raise Interrupted(128 + found.stopped_by)
    if found.failed:
        raise typer.Exit(1)
