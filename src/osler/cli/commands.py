"""One function per command, everything heavy imported inside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from osler import __version__
from osler.cli.output import Output
from osler.errors import BadInput

app = typer.Typer(
    name="osler",
    help="Train, test and question small vision-language models on medical multiple-choice questions. "
    "For research only, not a medical device.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Look through a data set, or convert it.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Images = Annotated[str | None, typer.Option(help="Folder where relative image paths start.")]
NoImages = Annotated[bool, typer.Option("--no-images", help="Read the questions alone.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out, and list them.")]
ModalityOption = Annotated[
    str | None, typer.Option("--modality", help="Imaging modality, where the data does not say.")
]
GroupColumn = Annotated[
    str | None, typer.Option("--group", help="Column that names patient, specimen or other group.")
]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]
DATA_HELP = (
    "OmniMedVQA root, Med-R1, MedVLM-R1 or HuatuoGPT-Vision JSON, or a folder with questions.jsonl; "
    "PATH#split for one split of it."
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        print(f"osler {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, runs and report.")] = Path("runs/demo"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The MedVLM-R1 experiment in miniature: phantom data, zero-shot, SFT and GRPO, table and report."""
    with Output(as_json, with_model=True) as output:
        from osler.demo import run

        numbers = run(out, seed)
        output.result(numbers, numbers["report"])


@app.command()
def phantom(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; must not exist.")],
    images: Annotated[int, typer.Option(help="Images per modality; two questions each.")] = 500,
    seed: Seed = 0,
    plant: Annotated[
        str | None, typer.Option(help="Plant a fault for audits to find: leak or shortcut.")
    ] = None,
    modalities: Annotated[str | None, typer.Option(help="Only these, e.g. ct,mri,xray.")] = None,
    as_json: Json = False,
) -> None:
    """Write a synthetic benchmark in OmniMedVQA's layout: train, validation and test parts."""
    with Output(as_json) as output:
        from osler.data.load import parse_modality
        from osler.phantom.benchmark import write_benchmark
        from osler.phantom.questions import IMAGINGS

        chosen = [parse_modality(name) for name in modalities.split(",")] if modalities else [*IMAGINGS]
        with output.progress("drawing") as advance:
            drawn = [m for m in IMAGINGS if m in chosen]
            write_benchmark(directory, images, seed, plant, modalities=drawn, progress=advance)
        facts = json.loads((directory / "phantom.json").read_text(encoding="utf-8"))
        output.result(
            {"out": str(directory), **facts}, f"{directory}: train/, validation/, test/, contact_sheet.png"
        )


@app.command("phantom-base")
def phantom_base(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Checkpoint folder to write.")],
    as_json: Json = False,
) -> None:
    """Rebuild the tiny base model that ships with the package, to the same bars."""
    with Output(as_json, with_model=True) as output:
        from osler.phantom_base.recipe import build

        output.result(build(out))


@data_app.command("check")
def data_check(
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)],
    images: Images = None,
    no_images: NoImages = False,
    modality: ModalityOption = None,
    group: GroupColumn = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Read every question and image; count modality x question type, chance level, and what is wrong."""
    with Output(as_json) as output:
        from osler.data.check import build_report, render_report
        from osler.data.load import load_questions

        loaded = load_questions(
            data,
            images_root=images,
            no_images=no_images,
            modality=modality,
            skip_bad=True,
            subject_column=group,
        )
        with output.progress("images") as advance:
            report = build_report(loaded, progress=advance)
        output.result(report.to_json(), lambda console: render_report(report, console))
        if not report.ok and not skip_bad:
            raise BadInput(f"{data}: not every row can be used; --skip-bad leaves the bad ones out")


@data_app.command("convert")
def data_convert(
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must not exist.")],
    split: Annotated[
        str | None, typer.Option(help="Split anew by image, group, modality or question_type.")
    ] = None,
    fractions: Annotated[
        str | None, typer.Option(help="Of the drawn splits, e.g. train=0.7,validation=0.1,test=0.2.")
    ] = None,
    rebuild_choices: Annotated[
        bool,
        typer.Option(
            "--rebuild-choices",
            help="New wrong choices, balanced so that the choices do not tell which is right.",
        ),
    ] = False,
    one_stem: Annotated[
        bool, typer.Option("--one-stem", help="And one wording per data set and question type.")
    ] = False,
    yes_no: Annotated[str, typer.Option(help="Yes/no questions: balance, or drop.")] = "balance",
    keep: Annotated[
        float, typer.Option(help="Share of the questions to keep, unbalanced where it must be.")
    ] = 0.0,
    seed: Seed = 0,
    images: Images = None,
    no_images: NoImages = False,
    modality: ModalityOption = None,
    group: GroupColumn = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Write a data set in Osler's own format; split it anew, or rebuild its choices, on the way."""
    with Output(as_json) as output:
        from osler.data.convert import convert
        from osler.data.rebuild import RepairOptions
        from osler.data.splits import DEFAULT_FRACTIONS, parse_fractions

        options = RepairOptions(seed=seed, one_stem=one_stem, yes_no=yes_no, keep=keep)
        if not rebuild_choices and options != RepairOptions(seed=seed):
            raise BadInput("--one-stem, --yes-no and --keep are parts of --rebuild-choices; add it")

        with output.progress("images") as advance:
            result = convert(
                data,
                out,
                split=split,
                fractions=DEFAULT_FRACTIONS if fractions is None else parse_fractions(fractions),
                seed=seed,
                images_root=images,
                no_images=no_images,
                modality=modality,
                skip_bad=skip_bad,
                subject_column=group,
                repair=options if rebuild_choices else None,
                progress=advance,
            )
        output.result(result.to_json())


Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, or a TOML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe, e.g. optim.lr=1e-5."),
]
RunFolder = Annotated[Path, typer.Option("--out", help="Run folder to write.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest complete checkpoint.")]


@app.command()
def grpo(
    recipe: Recipe,
    out: RunFolder,
    overrides: Overrides = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train with GRPO: rewards on the model's own completions."""
    _train("grpo", recipe, out, overrides, resume, as_json)


@app.command()
def sft(
    recipe: Recipe,
    out: RunFolder,
    overrides: Overrides = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train on the right answers themselves: the papers' baseline."""
    _train("sft", recipe, out, overrides, resume, as_json)


def _train(
    method: str, recipe: str, out: Path, overrides: list[str] | None, resume: bool, as_json: bool
) -> None:
    with Output(as_json, with_model=True) as output:
        from osler.doctor import preflight
        from osler.train.run import describe, run_recipe

        warning = preflight(recipe, overrides or [])
        if warning and os.environ.get("RANK", "0") == "0":
            output.note(f"osler: warning: {warning}")
        summary = run_recipe(method, recipe, out, overrides or [], resume)
        output.result(summary, describe(summary))
