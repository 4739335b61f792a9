"""The command that looks at data alone: audit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from osler.cli.commands import DATA_HELP, Images, Json, NoImages, SkipBad, app
from osler.cli.output import Output
from osler.errors import BadInput


@app.command()
def audit(
    train: Annotated[str, typer.Argument(metavar="TRAIN", help=f"Training questions: {DATA_HELP}")],
    test: Annotated[str, typer.Argument(metavar="TEST", help="Test questions, likewise.")],
    out: Annotated[Path | None, typer.Option(help="Folder for audit.html and audit.json.")] = None,
    images: Images = None,
    no_images: NoImages = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Leakage and text shortcuts: what a test set gives away without its images. No model needed."""
    with Output(as_json) as output:
        if out is not None and out.exists() and not out.is_dir():
            raise BadInput(f"--out {out}: is a file; name a folder")
        from osler.audit.run import audit as run_audit
        from osler.audit.table import print_audit
        from osler.report.audit_page import write_audit_page

        with output.progress("images") as advance:
            report = run_audit(
                train,
                test,
                images_root=images,
                no_images=no_images,
                skip_bad=skip_bad,
                progress=advance,
            )
        values = report.to_json()
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / "audit.json").write_text(
                json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            output.note(f"wrote {write_audit_page(report, out / 'audit.html')}")
        output.result(values, lambda console: print_audit(report, console))
