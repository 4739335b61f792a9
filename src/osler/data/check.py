"""The numbers of `osler data check`: what a data set holds, and what is wrong with it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from osler.data.images import image_digest, image_facts, open_image
from osler.data.load import LoadResult
from osler.errors import BadInput
from osler.records import LETTERS, Modality, Question, QuestionType

_LISTED = 10
# One word each, so that the table stands on a terminal of 80 columns with no word torn apart.
_HEADS = {
    QuestionType.MODALITY_RECOGNITION: "recognition",
    QuestionType.ANATOMY_IDENTIFICATION: "anatomy",
    QuestionType.DISEASE_DIAGNOSIS: "disease",
    QuestionType.LESION_GRADING: "grading",
    QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES: "other",
    QuestionType.UNKNOWN: "unknown",
}


@dataclass(frozen=True, slots=True)
class ImageReport:
    """What was found out about the image files."""

    num_paths: int  # distinct paths that usable questions name
    num_contents: int  # distinct file contents among them
    num_missing: int  # paths of bad rows that lead to no file
    duplicates: tuple[tuple[str, ...], ...] = ()  # paths with the same content
    unreadable: tuple[str, ...] = ()  # one line each: file, first row that needs it, why
    formats: Mapping[str, int] = field(default_factory=dict)  # "PNG" -> files
    conversions: Mapping[str, int] = field(default_factory=dict)  # "first frame" -> files
    decoded: bool = True  # False where only headers were read


@dataclass(frozen=True, slots=True)
class DataReport:
    """What a data set holds; every count is of usable questions unless it says otherwise."""

    format: str
    files: tuple[str, ...]
    num_rows: int  # read, good and bad
    num_questions: int
    table: Mapping[str, Mapping[str, int]]  # modality -> question type -> questions
    datasets: Mapping[str, int]
    splits: Mapping[str, int]
    num_choices: Mapping[int, int]  # choices -> questions
    answer_letters: Mapping[str, int]
    chance: float  # mean of 1 / number of choices, in 0-1
    chance_by_modality: Mapping[str, float]
    num_questions_without_subject: int
    max_questions_per_image: int
    num_images_in_several_splits: int  # by content, by path where no file was read
    warnings: Mapping[str, int]
    warning_examples: Mapping[str, tuple[str, ...]]
    bad_rows: tuple[str, ...]  # one line each
    bad_kinds: Mapping[str, int]
    images: ImageReport | None  # None where no image was looked up

    @property
    def ok(self) -> bool:
        """Whether every row and every image can be used."""
        return not self.bad_rows and (self.images is None or not self.images.unreadable)

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {"ok": self.ok, **asdict(self)}


def chance_level(questions: Sequence[Question]) -> float:
    """Expected accuracy of guessing, in 0-1: the mean of 1 / number of choices over the questions."""
    return fmean(1 / len(question.choices) for question in questions)


def build_report(
    loaded: LoadResult, *, decode: bool = True, progress: Callable[[int, int], None] | None = None
) -> DataReport:
    """Count what `load_questions(…, skip_bad=True)` found, and open its images.

    `decode=False` reads image headers only. `progress` is called with images done and images in all.
    """
    questions = loaded.questions
    by_modality: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_modality[question.modality.value].append(question)
    digests: dict[str, str] = {}
    images = _look_at_images(loaded, digests, decode, progress) if loaded.images_checked else None
    per_image: Counter[str] = Counter()
    splits_of: dict[str, set[str]] = defaultdict(set)
    for question in questions:
        for key in {digests.get(path, path) for path in question.images}:
            per_image[key] += 1
            splits_of[key].add(question.split)
    return DataReport(
        format=loaded.format,
        files=loaded.files,
        num_rows=loaded.num_rows,
        num_questions=len(questions),
        table={
            m: _counts(q.question_type.value for q in by_modality[m]) for m in Modality if m in by_modality
        },
        datasets=_counts(question.dataset for question in questions),
        splits=_counts(question.split for question in questions),
        num_choices=dict(sorted(Counter(len(question.choices) for question in questions).items())),
        answer_letters=_counts(question.answer_letter for question in questions),
        chance=chance_level(questions),
        chance_by_modality={m: chance_level(by_modality[m]) for m in Modality if m in by_modality},
        num_questions_without_subject=sum(not question.subject_id for question in questions),
        max_questions_per_image=max(per_image.values(), default=0),
        num_images_in_several_splits=sum(len(splits) > 1 for splits in splits_of.values()),
        warnings=dict(sorted(loaded.warnings.items())),
        warning_examples=loaded.warning_examples,
        bad_rows=tuple(str(row) for row in loaded.bad),
        bad_kinds=_counts(row.kind for row in loaded.bad),
        images=images,
    )


def _counts(values: Any) -> dict[str, int]:
    """How often each value occurs, by name."""
    return dict(sorted(Counter(values).items()))


def _look_at_images(
    loaded: LoadResult,
    digests: dict[str, str],
    decode: bool,
    progress: Callable[[int, int], None] | None,
) -> ImageReport:
    """Open every image once; `digests` is filled with path -> content digest."""
    needed_by: dict[str, str] = {}
    for question in loaded.questions:
        for path in question.images:
            needed_by.setdefault(path, question.source)
    paths_of: dict[str, list[str]] = defaultdict(list)
    unreadable = []
    formats: Counter[str] = Counter()
    conversions: Counter[str] = Counter()
    for done, (path, source) in enumerate(needed_by.items(), start=1):
        try:
            digests[path] = image_digest([path])
            paths_of[digests[path]].append(path)
            facts = image_facts(path)
            if decode:
                open_image(path)
            formats[facts.format] += 1
            conversions.update(facts.conversions)
        except BadInput as error:
            unreadable.append(f"{source}: {error}")
        if progress is not None:
            progress(done, len(needed_by))
    return ImageReport(
        num_paths=len(needed_by),
        num_contents=len(paths_of),
        num_missing=len(loaded.missing_images),
        duplicates=tuple(tuple(paths) for paths in paths_of.values() if len(paths) > 1),
        unreadable=tuple(unreadable),
        formats=dict(sorted(formats.items())),
        conversions=dict(sorted(conversions.items())),
        decoded=decode,
    )


def render_report(report: DataReport, console: Console) -> None:
    """Print the report for a reader."""
    console.print(
        f"[bold]{report.num_questions:,}[/bold] questions from {len(report.files):,} "
        f"file{'s' if len(report.files) != 1 else ''} ({report.format}); "
        f"chance level {100 * report.chance:.1f} %"
    )
    console.print(_question_table(report))
    _print_counts(console, "Splits", {name or "(none)": n for name, n in report.splits.items()})
    _print_counts(console, "Choices per question", {str(k): n for k, n in report.num_choices.items()})
    letters = {letter: report.answer_letters.get(letter, 0) for letter in LETTERS[: max(report.num_choices)]}
    _print_counts(console, "Right answers by letter", letters)
    _render_images(report, console)
    for kind, count in report.warnings.items():
        rows = "; ".join(report.warning_examples.get(kind, ()))
        console.print(
            f"[yellow]warning[/yellow] {kind.replace('_', ' ')}: {count:,} (such as {escape(rows)})"
        )
    if report.num_images_in_several_splits:
        shared = f"{report.num_images_in_several_splits:,}"
        console.print(f"[yellow]warning[/yellow] {shared} images stand in more than one split")
    _print_list(console, "bad row", report.bad_rows)
    if report.images is not None:
        _print_list(console, "bad image", report.images.unreadable)
    if report.ok:
        unread = "" if report.images is not None else " (images not looked up)"
        console.print(f"[green]all {report.num_rows:,} rows can be used[/green]{unread}")


def _question_table(report: DataReport) -> Table:
    types = [t for t in QuestionType if any(t.value in row for row in report.table.values())]
    used = [t.value for t in types]
    table = Table(
        title="Questions by modality and question type",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=0,
        title_justify="left",
    )
    table.add_column("modality", no_wrap=True, min_width=10)
    for head in (*(_HEADS[t] for t in types), "all", "chance %"):
        table.add_column(head, justify="right", no_wrap=True, min_width=7)
    for modality, row in report.table.items():
        cells = [f"{row[name]:,}" if name in row else "-" for name in used]
        chance = f"{100 * report.chance_by_modality[modality]:.1f}"
        table.add_row(str(modality), *cells, f"{sum(row.values()):,}", chance)
    sums = [f"{sum(row.get(name, 0) for row in report.table.values()):,}" for name in used]
    table.add_section()
    table.add_row("all", *sums, f"{report.num_questions:,}", f"{100 * report.chance:.1f}")
    return table


def _render_images(report: DataReport, console: Console) -> None:
    images = report.images
    if images is None:
        console.print("Images: not looked up")
        return
    extra = sum(len(paths) - 1 for paths in images.duplicates)
    how = "decoded" if images.decoded else "headers read"
    console.print(
        f"Images: {images.num_paths:,} files found and {how}, {images.num_missing:,} missing, "
        f"{len(images.unreadable):,} unreadable, {extra:,} copies of another file; "
        f"up to {report.max_questions_per_image:,} questions on one image"
    )
    _print_counts(console, "Formats", images.formats)
    _print_counts(console, "Converted when opened", images.conversions)
    if images.duplicates:
        console.print(f"[yellow]warning[/yellow] same content: {escape(' = '.join(images.duplicates[0]))}")


def _print_counts(console: Console, title: str, counts: Mapping[str, int]) -> None:
    if counts:
        console.print(f"{title}: " + ", ".join(f"{escape(name)} {n:,}" for name, n in counts.items()))


def _print_list(console: Console, what: str, lines: Sequence[str]) -> None:
    for line in lines[:_LISTED]:
        console.print(f"[red]{what}[/red] {escape(line)}")
    if len(lines) > _LISTED:
        console.print(f"[red]{what}[/red] … and {len(lines) - _LISTED:,} more")
