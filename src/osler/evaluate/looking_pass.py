"""The pass behind `--ablate` and `--rotate`: ask the variants, and say what the image was worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from osler.data.images import image_digest
from osler.errors import BadInput
from osler.evaluate.looking import looking
from osler.evaluate.looking_records import Answers, Looking
from osler.evaluate.looking_table import print_looking
from osler.evaluate.passes import MainPass, Pass
from osler.evaluate.runner import Ask
from osler.evaluate.scoring import TEXT_LOGPROB
from osler.evaluate.variants import (
    CHOICES_ONLY,
    FAILED,
    NO_IMAGE,
    QUESTION_ONLY,
    SWAPPED,
    VIEWS,
    choices_only,
    rotate_choices,
    swap_images,
    without_image,
)
from osler.prompts import question_only
from osler.records import Question


@dataclass(frozen=True, kw_only=True)
class _Planned:
    name: str
    ask: Ask | None  # None where no question is left
    left_out: dict[str, str] = field(default_factory=dict)  # question id -> why


def looking_pass(ablations: Sequence[str], rotate: bool, seed: int) -> Pass:
    """Variants by the names of `osler.evaluate.variants.ABLATIONS`, and all rotations of the choices."""
    return Pass(
        kind="looking",
        ask=partial(look, ablations=ablations, rotate=rotate, seed=seed),
        show=print_looking,
    )


def look(main: MainPass, *, ablations: Sequence[str], rotate: bool, seed: int) -> Looking:
    """Ask every variant and compare. Raises BadInput where an ablation of images meets no image at all."""
    failed = {p.question_id: FAILED for p in main.predictions if p.error}
    questions = [q for q in main.questions if q.id not in failed]
    planned = [one for name in ablations for one in _planned(main, name, questions, seed)]
    turned = list(_rotations(main, questions)) if rotate else []
    asks = [one.ask for one in planned if one.ask is not None] + turned
    answers = iter(main.answer(asks)) if asks else iter(())
    variants = {
        one.name: Answers(
            predictions=next(answers) if one.ask is not None else (), left_out=one.left_out | failed
        )
        for one in planned
    }
    rotations = [Answers(predictions=found) for found in answers]
    return looking(main.header.name, main.predictions, variants, rotations, main.blind)


def _planned(main: MainPass, ablation: str, questions: Sequence[Question], seed: int) -> Iterator[_Planned]:
    """The variants of one ablation; of noise, one for every level."""
    shown = [q for q in questions if q.images]
    left_out = {q.id: NO_IMAGE for q in questions if not q.images}
    if ablation not in (CHOICES_ONLY, QUESTION_ONLY) and questions and not shown:
        raise BadInput(f"--ablate {ablation}: no question of {main.test_set} has an image")

    def plan(name: str, asked: Sequence[Question], out: dict[str, str], **changes: object) -> _Planned:
        folder = str(changes.pop("folder", name))
        ask = main.variant(folder, asked, **changes) if asked else None
        return _Planned(name=name, ask=ask, left_out=out)

    if ablation == CHOICES_ONLY:
        yield plan(ablation, [choices_only(q) for q in questions], {})
    elif ablation == QUESTION_ONLY:
        template = question_only(main.template)
        bare = [without_image(q) for q in questions]
        yield plan(ablation, bare, {}, template=template, scorer=TEXT_LOGPROB)
    elif ablation == SWAPPED:
        digests = {q.id: image_digest(q.images) for q in questions}
        swapped, alone = swap_images(questions, digests, seed)
        # Who swaps with whom depends on who is there: another number of questions is another file.
        yield plan(ablation, swapped, alone, folder=f"{ablation}-of-{len(questions)}")
    else:
        for name, view in VIEWS[ablation].items():
            yield plan(name, shown, left_out, view=view)


def _rotations(main: MainPass, questions: Sequence[Question]) -> Iterator[Ask]:
    for by in range(1, max((len(q.choices) for q in questions), default=0)):
        turned = [rotate_choices(q, by) for q in questions if len(q.choices) > by]
        yield main.variant(f"rotated-{by}", turned)
