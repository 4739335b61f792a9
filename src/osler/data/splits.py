"""Splitting a data set so that what belongs together stays together.

- `image`: questions that share an image share a split. One question may have several images and one image
  several questions, so the unit is the connected component. Two files are the same image when their bytes
  are the same (SHA-256 of the file), whatever their names; a re-encoded or resized copy is not recognised.
  Without image files the path stands for the image, and the result says so.
- `group`: questions of one `subject_id` share a split, and so do those that share an image. A question
  without a `subject_id` goes by its images alone, and the result counts those.
- `modality`, `question_type`: the split is named after the value; nothing is drawn.

The drawn splits keep the fractions inside every modality as closely as whole components allow. They depend
on the seed and on what the images (or subjects) are, never on the order of the questions.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from osler.data.images import image_digest
from osler.errors import BadInput
from osler.records import Question

SPLIT_KINDS = ("image", "group", "modality", "question_type")
DEFAULT_FRACTIONS: Mapping[str, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}

_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class SplitResult:
    """The questions, each with its `split`, in the order given.

    >>> SplitResult(questions=(), by="modality", unit="modality", num_units=1, counts={"ct": 270}).by
    'modality'
    """

    questions: tuple[Question, ...]
    by: str  # one of SPLIT_KINDS
    unit: str  # in words, what was kept together
    num_units: int
    counts: Mapping[str, int]  # split -> questions


def parse_fractions(text: str) -> dict[str, float]:
    """Fractions as the command line takes them. Raises BadInput.

    >>> parse_fractions("train=0.8,test=0.2")
    {'train': 0.8, 'test': 0.2}
    """
    fractions: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            equals = ""
        if not equals or not name.strip() or name.strip() in fractions:
            raise BadInput(
                f"fractions {text!r}: write name=fraction once per split, as in train=0.8,test=0.2"
            )
        fractions[name.strip()] = number
    check_fractions(fractions)
    return fractions


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raises BadInput unless all fractions are above 0 and they sum to 1."""
    total = sum(fractions.values())
    if not fractions or not all(f > 0 for f in fractions.values()) or not abs(total - 1) <= _TOLERANCE:
        shown = ", ".join(f"{name}={fraction:g}" for name, fraction in fractions.items())
        raise BadInput(f"fractions {shown}: must all be above 0 and sum to 1, not {total:g}")


def split_questions(
    questions: Sequence[Question],
    by: str,
    *,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    by_content: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> SplitResult:
    """Give every question a split; see the module for what `by` means.

    `by_content=False` takes the image path for the image (questions read without their files). `progress`
    is called with images hashed and images in all. Raises BadInput for an unknown `by`, fractions that do
    not sum to 1, a `group` split where no question names a subject, and a `modality` or `question_type`
    split where it is known of no question.
    """
    if by in ("modality", "question_type"):
        return _split_by_label(questions, by)
    if by not in SPLIT_KINDS:
        raise BadInput(f"split {by!r} is not known; it is one of {', '.join(SPLIT_KINDS)}")
    check_fractions(fractions)
    image_keys = _image_keys(questions, by_content, progress)
    keys = [[image_keys[path] for path in question.images] for question in questions]
    unit = (
        "questions that share an image (same file content, SHA-256)"
        if by_content
        else "questions that share an image path (no files were read: copies under two names are not seen)"
    )
    if by == "group":
        without = sum(not question.subject_id for question in questions)
        if without == len(questions):
            raise BadInput(
                "split by group: no question names a subject; name the column that does, or split by image"
            )
        for question, own in zip(questions, keys, strict=True):
            if question.subject_id:
                own.append(f"subject:{question.subject_id}")
        unit = f"questions of one subject, and {unit}"
        if without:
            unit += f"; {without:,} questions name no subject and go by image alone"
    components = connected_components(keys)
    names = _assign(questions, keys, components, fractions, seed)
    return _result(questions, names, by, unit, len(components))


def connected_components(keys: Sequence[Sequence[str]]) -> list[list[int]]:
    """Groups of positions linked by any shared key, each sorted, ordered by their first position.

    >>> connected_components([["a"], ["b"], ["a", "c"], ["c"], []])
    [[0, 2, 3], [1], [4]]
    """
    parent = list(range(len(keys)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first_with: dict[str, int] = {}
    for i, own in enumerate(keys):
        for key in own:
            a, b = find(i), find(first_with.setdefault(key, i))
            # The smaller position is the root, so components come out in the order of their first one.
            parent[max(a, b)] = min(a, b)
    members: dict[int, list[int]] = defaultdict(list)
    for i in range(len(keys)):
        members[find(i)].append(i)
    return list(members.values())


def _image_keys(
    questions: Sequence[Question], by_content: bool, progress: Callable[[int, int], None] | None
) -> dict[str, str]:
    paths = list(dict.fromkeys(path for question in questions for path in question.images))
    if not by_content:
        return {path: f"image:{path}" for path in paths}
    keys = {}
    for done, path in enumerate(paths, start=1):
        keys[path] = f"image:{image_digest([path])}"
        if progress is not None:
            progress(done, len(paths))
    return keys


def _assign(
    questions: Sequence[Question],
    keys: Sequence[Sequence[str]],
    components: Sequence[Sequence[int]],
    fractions: Mapping[str, float],
    seed: int,
) -> list[str]:
    """The split of every question: component by component, each to the split furthest below its share."""
    strata: dict[tuple[str, ...], list[tuple[str, Sequence[int]]]] = defaultdict(list)
    for component in components:
        own = {key for i in component for key in keys[i]} or {f"id:{questions[i].id}" for i in component}
        rank = hashlib.sha256(f"{seed}|{min(own)}".encode()).hexdigest()
        stratum = tuple(sorted({questions[i].modality.value for i in component}))
        strata[stratum].append((rank, component))
    names = [""] * len(questions)
    for stratum in sorted(strata):
        filled = dict.fromkeys(fractions, 0)
        total = 0
        # Large components first: the small ones then even out what those left uneven.
        for _, component in sorted(strata[stratum], key=lambda ranked: (-len(ranked[1]), ranked[0])):
            total += len(component)
            wanting = {part: share * total - filled[part] for part, share in fractions.items()}
            name = max(wanting, key=wanting.__getitem__)
            filled[name] += len(component)
            for i in component:
                names[i] = name
    return names


def _split_by_label(questions: Sequence[Question], by: str) -> SplitResult:
    names = [
        question.modality.value if by == "modality" else question.question_type.value
        for question in questions
    ]
    if set(names) <= {"unknown"}:
        raise BadInput(f"split by {by}: the source names no {by}; split by image, or read a source that does")
    return _result(questions, names, by, by, len(set(names)))


def _result(
    questions: Sequence[Question], names: Sequence[str], by: str, unit: str, num_units: int
) -> SplitResult:
    placed = tuple(replace(question, split=name) for question, name in zip(questions, names, strict=True))
    return SplitResult(placed, by, unit, num_units, dict(sorted(Counter(names).items())))
