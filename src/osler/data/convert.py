"""Any readable data set into our own folder, split on the way and its choices rebuilt if asked.

The parts of a split stand in one `questions.jsonl` and are told apart by the field `split`; a recipe names
folder and part (`data.train = "DIR"`, `data.train_split = "train"`), `load_questions(DIR, split="train")`
selects. With a split by modality or question type the parts are called `ct`, `disease_diagnosis` and so on.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osler.data.folder import write_folder
from osler.data.load import LoadResult, load_questions
from osler.data.rebuild import RepairOptions, rebuild_choices
from osler.data.repair_record import record_files, record_rows, repair_counts
from osler.data.splits import DEFAULT_FRACTIONS, SPLIT_KINDS, check_fractions, split_questions
from osler.errors import BadInput
from osler.records import Modality


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """What was written where."""

    out: Path
    loaded: LoadResult
    num_questions: int
    num_images: int  # distinct files written; 0 without images
    splits: Mapping[str, int]  # split -> questions; {"": n} where there is none
    unit: str  # in words, what the split kept together; "" where nothing was split
    repair: tuple[Mapping[str, Any], ...] = ()  # `repair_counts` where choices were rebuilt

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return {
            "out": str(self.out),
            "format_read": self.loaded.format,
            "num_questions": self.num_questions,
            "num_images": self.num_images,
            "splits": dict(self.splits),
            "split_unit": self.unit,
            "repair": list(self.repair),
            "warnings": dict(self.loaded.warnings),
            "bad_rows": [str(row) for row in self.loaded.bad],
        }


def convert(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    images_root: str | os.PathLike[str] | None = None,
    no_images: bool = False,
    modality: Modality | str | None = None,
    skip_bad: bool = False,
    subject_column: str | None = None,
    repair: RepairOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ConvertResult:
    """Read `path`, split it by `split` (one of SPLIT_KINDS; None keeps the splits it has), write `out`.

    With `repair` the choices are rebuilt, split by split, and what was done stands beside the questions.
    With `no_images` nothing is copied, image paths are written as the source has them, and a split by image
    goes by path. Raises BadInput as `load_questions`, `split_questions`, `rebuild_choices` and `write_folder`
    do; `out` appears complete or not at all.
    """
    if split is not None and split not in SPLIT_KINDS:
        raise BadInput(f"split {split!r} is not known; it is one of {', '.join(SPLIT_KINDS)}")
    check_fractions(fractions)
    if Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir())):
        raise BadInput(f"{out}: exists already; name a new folder or remove it")
    loaded = load_questions(
        path,
        images_root=images_root,
        no_images=no_images,
        modality=modality,
        skip_bad=skip_bad,
        subject_column=subject_column,
    )
    questions, unit = loaded.questions, ""
    if split is not None:
        result = split_questions(questions, split, fractions=fractions, seed=seed, by_content=not no_images)
        questions, unit = result.questions, result.unit
    repaired = None if repair is None else rebuild_choices(questions, repair)
    if repaired is not None:
        questions = repaired.questions
    written = write_folder(
        questions,
        out,
        copy_images=not no_images,
        progress=progress,
        extra_keys={} if repaired is None else record_rows(repaired),
        extra_files={} if repaired is None else record_files(repaired),
    )
    images = written / "images"
    return ConvertResult(
        out=written,
        loaded=loaded,
        num_questions=len(questions),
        num_images=sum(1 for _ in images.iterdir()) if images.is_dir() else 0,
        splits=dict(sorted(Counter(question.split for question in questions).items())),
        unit=unit,
        repair=() if repaired is None else tuple(repair_counts(repaired)),
    )
