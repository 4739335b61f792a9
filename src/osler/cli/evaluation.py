"""The commands that ask a model and look at what came of it: evaluate, ask, report, compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from osler.cli.commands import DATA_HELP, Images, Json, ModalityOption, RunFolder, Seed, SkipBad, app
from osler.cli.endpoint import (
    Attempts,
    Concurrency,
    KeyVariable,
    LimitParameter,
    Prices,
    Timeout,
    endpoint_options,
)
from osler.cli.output import Output
from osler.errors import BadInput


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Option(help="Checkpoint folder, run folder, hub id, phantom-base or openai:URL#name.")
    ],
    data: Annotated[str, typer.Option(help=DATA_HELP)],
    out: RunFolder,
    template: Annotated[
        str | None, typer.Option(help="Prompt template; default: the run's own, else think.")
    ] = None,
    blind_from: Annotated[
        str | None, typer.Option(help="Data that the blind baseline is fitted on; default: the run's own.")
    ] = None,
    scorer: Annotated[
        str, typer.Option(help="osler, paper-strict:medvlm_r1, paper-strict:med_r1 or letter-logprob.")
    ] = "osler",
    limit: Annotated[int | None, typer.Option(help="Ask a fixed random N of the questions.")] = None,
    limit_per: Annotated[
        str | None, typer.Option(help="N of every modality, or of every question_type.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Only these modalities or question types, e.g. ct,mri.")
    ] = None,
    images: Images = None,
    modality: ModalityOption = None,
    skip_bad: SkipBad = False,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    max_completion_tokens: Annotated[
        int | None, typer.Option(help="Longest completion; default: as trained, else 256.")
    ] = None,
    seed: Seed = 0,
    min_pixels: Annotated[int | None, typer.Option(help="Smallest image; default: as trained.")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Largest image; default: as trained.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16; default: as trained.")] = None,
    batch_size: Annotated[int, typer.Option(help="Questions between two saves.")] = 64,
    ablate: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Ask again with less: blank-image, swapped-image, noise, choices-only, question-only.",
        ),
    ] = None,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Ask again in every rotation of the choices.")
    ] = False,
    thinking: Annotated[
        bool,
        typer.Option("--thinking", help="Examine the reasoning: edit it, shuffle the choices, add a hint."),
    ] = False,
    concurrency: Concurrency = None,
    timeout: Timeout = None,
    attempts: Attempts = None,
    key_variable: KeyVariable = None,
    limit_parameter: LimitParameter = None,
    prices: Prices = None,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Probabilities of the choices: can they be trusted?")
    ] = False,
    samples: Annotated[
        int, typer.Option(help="Draw N completions per question: does their agreement say who is right?")
    ] = 0,
    sample_temperature: Annotated[float, typer.Option(help="Of --samples.")] = 1.0,
    calibration: Annotated[
        Path | None, typer.Option(help="calibration.json or its folder; default: the model's own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask every question: accuracy with interval, n, chance and blind baseline; --ablate, --rotate: is it
    looking?"""
    with Output(as_json, with_model=True) as output:
        from osler.evaluate.run import Request, run_evaluation
        from osler.evaluate.summary import summary_to_json
        from osler.evaluate.summary_table import print_summary
        from osler.evaluate.variants import parse_ablations

        request = Request(
            model=model,
            data=data,
            out=out,
            template=template,
            limit=limit,
            limit_per=limit_per,
            only=() if only is None else tuple(only.split(",")),
            images=images,
            modality=modality,
            skip_bad=skip_bad,
            scorer=scorer,
            temperature=temperature,
            max_completion_tokens=max_completion_tokens,
            seed=seed,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            precision=precision,
            batch_size=batch_size,
            ablate=() if ablate is None else parse_ablations(ablate),
            rotate=rotate,
            thinking=thinking,
            endpoint=endpoint_options(
                concurrency=concurrency,
                timeout_seconds=timeout,
                attempts=attempts,
                key_variable=key_variable,
                limit_parameter=limit_parameter,
                prices=prices,
            ),
            confidence=confidence,
            samples=samples,
            sample_temperature=sample_temperature,
            calibration=calibration,
        )
        blind = _blind_fit(request, blind_from, output.note)
        with output.progress("questions") as advance:
            found = run_evaluation(request, blind, progress=advance, note=output.note)

        def show(console: Any) -> None:
            print_summary(found.summary, console)
            for finding in found.findings:
                finding.show(finding.values, console)

        values = summary_to_json(found.summary) | {f.kind: f.to_json() for f in found.findings}
        output.result(values, show)


def _blind_fit(request: Any, blind_from: str | None, note: Callable[[str], None]) -> Any:
    """What the blind baseline is fitted on: --blind-from, else the run's training questions, else nothing."""
    from osler.data.load import load_questions
    from osler.evaluate.run import BlindFit
    from osler.evaluate.trained import how_trained

    if blind_from is not None:
        if blind_from == request.data:
            raise BadInput(f"--blind-from {blind_from}: is the test data; leave it out to cross-validate")
        found = load_questions(
            blind_from, modality=request.modality, skip_bad=request.skip_bad, no_images=True
        ).questions
        return BlindFit(name=blind_from, questions=found)
    how = how_trained(request.model)
    if how.run is None or how.config is None:
        return None
    from osler.train.run import training_questions

    try:
        trained_on = training_questions(how.config.data)
    except BadInput as error:
        note(f"blind baseline: the training questions of {how.run.name} cannot be read: {error}")
        note("blind baseline: cross-validating within the test set instead")
        return None
    return BlindFit(name=f"the training questions of {how.run.name}", questions=trained_on)


@app.command()
def ask(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Checkpoint or run folder, hub id, phantom-base.")
    ],
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Image file.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    choices: Annotated[str, typer.Option(help='The options: "kidney; liver; spleen".')],
    template: Annotated[
        str | None, typer.Option(help="Prompt template; default: the run's own, else think.")
    ] = None,
    max_completion_tokens: Annotated[
        int | None, typer.Option(help="Longest completion; default: as trained, else 256.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="calibration.json or its folder; default: the model's own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """One image, one question: thinking, answer, option probabilities; abstains where it is told to."""
    with Output(as_json, with_model=True) as output:
        from osler.ask import ask_model, print_answer

        answer = ask_model(model, image, question, choices, template, max_completion_tokens, calibration)
        output.result(answer.to_json(), lambda console: print_answer(answer, console))


@app.command()
def calibrate(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Evaluation of validation questions, with --confidence.")
    ],
    test_set: Annotated[
        str | None, typer.Option(help="Which of the run's test sets; default: the only one.")
    ] = None,
    method: Annotated[str, typer.Option(help="temperature or platt.")] = "temperature",
    risk: Annotated[
        float | None, typer.Option(help="Abstain so that at most this share of answers is wrong: 0.1.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fit confidences on validation questions, and where to abstain; stored with the model. Asks no model."""
    with Output(as_json, with_model=True) as output:
        from osler.calibrate import calibrate_run, print_calibrated

        made = calibrate_run(run, test_set, method, risk, output.note)
        output.result(made.to_json(), lambda console: print_calibrated(made, console))


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN_OR_STUDY...", help="Run folders, or folders of them.")
    ],
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "",
    as_json: Json = False,
) -> None:
    """One self-contained HTML page: results, curves, example images with thinking and answer."""
    with Output(as_json) as output:
        from osler.report.page import write_report
        from osler.study.store import is_study

        if len(runs) == 1 and is_study(runs[0]):
            from osler.report.study_page import write_study_page

            facts = write_study_page(runs[0], out, title)
        else:
            facts = write_report(runs, out, title or "Osler report", progress=output.note)
        for note in facts.notes:
            output.note(note)
        shown = {
            "page": str(facts.path),
            "runs": facts.runs,
            "test_sets": facts.test_sets,
            "num_examples": facts.num_cards,
            "num_bytes": facts.num_bytes,
            "notes": facts.notes,
        }
        output.result(shown, f"{facts.path}: {len(facts.runs)} runs, {facts.num_bytes / 1e6:.1f} MB")


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Evaluation run folder.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another over the same questions.")],
    margin: Annotated[
        float | None,
        typer.Option(metavar="POINTS", help="Non-inferiority of b: percentage points, fixed beforehand."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="HTML page to write as well.")] = None,
    as_json: Json = False,
) -> None:
    """Two runs over the same questions: paired tests, intervals, gained and lost questions, by group."""
    with Output(as_json) as output:
        from osler.evaluate.compare import compare_runs, comparison_to_json
        from osler.evaluate.compare_table import print_comparison

        found = compare_runs(run_a, run_b, None if margin is None else margin / 100)
        if out is not None:
            from osler.report.page import write_report

            facts = write_report([run_a, run_b], out, "Osler comparison", comparisons=found)
            output.note(f"{facts.path}: {facts.num_bytes / 1e6:.1f} MB")

        def show(console: Any) -> None:
            for comparison in found:
                print_comparison(comparison, console)

        output.result({"test_sets": [comparison_to_json(c) for c in found]}, show)
