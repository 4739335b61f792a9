"""The real files, read whole: every row, no error. Skipped where the data is not at hand."""

from __future__ import annotations

import csv
import json
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from osler.data.check import build_report
from osler.data.convert import convert
from osler.data.load import LoadResult, load_questions
from osler.records import LETTERS, Modality, Question, QuestionType

SHARED = Path(__file__).resolve().parents[2] / "shared"
MINI = SHARED / "omnimedvqa_mini"
REAL = SHARED / "omnimedvqa_questions"

needs_mini = pytest.mark.skipif(not MINI.is_dir(), reason=f"{MINI} (real images) is not here")
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} (the papers' question files) is not here")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("real")
    for name in ("open_access_questions", "med_r1_modality_splits"):
        with zipfile.ZipFile(REAL / f"{name}.zip") as archive:
            archive.extractall(root / name)
    return root


@pytest.fixture(scope="module")
def native(unpacked: Path) -> LoadResult:
    return load_questions(unpacked / "open_access_questions", no_images=True)


def content(question: Question) -> tuple[object, ...]:
    return (question.images, question.text, question.choices, question.answer_index)


# modality -> anatomy, disease, grading, recognition, other, by the census of UCSC-VLAA/MedVLThinker @a3163b1
# scripts/legacy/eda_omnimedvqa.ipynb; of MRI's 28,319 disease questions the archive has these.
CELLS = {
    "ct": (360, 13068, 268, 1845, 268),
    "mri": (0, 10211, 0, 3541, 17),
    "xray": (3375, 3076, 0, 1465, 0),
    "ultrasound": (10018, 0, 0, 973, 0),
    "dermoscopy": (220, 5326, 0, 1133, 0),
    "fundus": (439, 769, 1830, 1190, 1170),
    "oct": (0, 2461, 0, 488, 1697),
    "microscopy": (2036, 2368, 0, 930, 346),
}
TYPES = (
    QuestionType.ANATOMY_IDENTIFICATION,
    QuestionType.DISEASE_DIAGNOSIS,
    QuestionType.LESION_GRADING,
    QuestionType.MODALITY_RECOGNITION,
    QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
)


@needs_real
def test_native_layout(native: LoadResult) -> None:
    assert native.format == "omnimedvqa"
    assert len(native.questions) == native.num_rows == 70_888
    assert not native.bad
    # 8 with two equal wrong choices; 36 more where they differ in case alone.
    assert native.warnings == {"equal_choices": 8, "nearly_equal_choices": 36}
    cells = Counter((q.modality.value, q.question_type) for q in native.questions)
    assert {m: tuple(cells[m, t] for t in TYPES) for m in CELLS} == CELLS
    assert len({q.id for q in native.questions}) == 70_888


@needs_real
def test_the_odd_record_and_the_odd_counts(native: LoadResult) -> None:
    odd = next(q for q in native.questions if q.id == "Chest CT Scan_00000")
    assert odd.modality is Modality.CT
    assert Counter(len(q.choices) for q in native.questions) == {4: 63_974, 2: 6_792, 3: 122}


# file -> rows of Med-R1 @88d76c7 Splits/modality (its MRI train file is not in the archive)
MED_R1_ROWS = {
    "test/CT(Computed Tomography)_test.json": ("ct", 3241),
    "test/MR (Mag-netic Resonance Imaging)_test.json": ("mri", 6370),
    "test/X-Ray_test.json": ("xray", 1615),
    "test/ultrasound_test.json": ("ultrasound", 2074),
    "test/Dermoscopy_test.json": ("dermoscopy", 1306),
    "test/Fundus Photography_test.json": ("fundus", 1098),
    "test/OCT (Optical Coherence Tomography_test.json": ("oct", 848),
    "test/Microscopy Images_test.json": ("microscopy", 1110),
    "train/CT(Computed Tomography)_train.json": ("ct", 12567),
    "train/X-Ray_train.json": ("xray", 6301),
    "train/ultrasound_train.json": ("ultrasound", 8917),
    "train/Dermoscopy_train.json": ("dermoscopy", 5373),
    "train/Fundus Photography_train.json": ("fundus", 4300),
    "train/OCT (Optical Coherence Tomography_train.json": ("oct", 3798),
    "train/Microscopy Images_train.json": ("microscopy", 4570),
    "train/unknown_train.json": ("ct", 1),
}


@needs_real
def test_every_med_r1_file(unpacked: Path) -> None:
    folder = unpacked / "med_r1_modality_splits" / "modality"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.json")}
    assert files == set(MED_R1_ROWS)
    repeated: Counter[str] = Counter()
    for name, (modality, rows) in MED_R1_ROWS.items():
        loaded = load_questions(folder / name, no_images=True)
        assert (len(loaded.questions), loaded.num_rows, loaded.bad) == (rows, rows, ())
        assert {q.modality.value for q in loaded.questions} == {modality}
        assert {q.split for q in loaded.questions} == {name.split("/")[0]}
        assert "ambiguous_choices" not in loaded.warnings
        repeated.update({k: n for k, n in loaded.warnings.items() if "equal" in k})
    assert repeated == {"equal_choices": 8, "nearly_equal_choices": 36}


@needs_real
def test_cut_choices_are_the_native_ones(unpacked: Path, native: LoadResult) -> None:
    """The papers' one-line problems and the native option fields are two writings of the same questions."""
    cut = load_questions(unpacked / "med_r1_modality_splits" / "modality", no_images=True).questions
    assert len(cut) == 63_489
    by_content = {content(q): q for q in native.questions}
    assert not Counter(map(content, cut)) - Counter(map(content, native.questions))
    assert all(by_content[content(q)].modality is q.modality for q in cut)
    assert all(by_content[content(q)].dataset == q.dataset for q in cut)


@needs_real
def test_medvlm_r1_sample() -> None:
    loaded = load_questions(REAL / "medvlm_r1_test_sample.json", no_images=True)
    assert loaded.format == "medvlm_r1"
    assert Counter(q.modality.value for q in loaded.questions) == {"mri": 20, "ct": 20, "xray": 20}
    rows = json.loads((REAL / "medvlm_r1_test_sample.json").read_text(encoding="utf-8"))
    for question, row in zip(loaded.questions, rows, strict=True):
        lines = [question.text, *(f"{a}) {c}" for a, c in zip(LETTERS, question.choices, strict=False))]
        assert "\n".join(lines) == row["problem"]
        assert (question.answer_letter, question.answer) == (row["solution"], row["answer"])


@needs_mini
def test_mini_with_its_images() -> None:
    loaded = load_questions(MINI)
    assert len(loaded.questions) == loaded.num_rows == 2_512
    assert not loaded.bad
    assert not loaded.warnings
    with open(MINI / "questions.csv", encoding="utf-8", newline="") as file:
        listed = {row["question_id"]: (row["modality"], row["question_type"]) for row in csv.DictReader(file)}
    assert {q.id: q.modality.value for q in loaded.questions} == {i: m for i, (m, _) in listed.items()}
    named = {q.id: q.question_type.value.replace("_", " ") for q in loaded.questions}
    assert named == {i: t.lower() for i, (_, t) in listed.items()}
    assert len({path for q in loaded.questions for path in q.images}) == 1_216


@needs_mini
def test_mini_in_med_r1s_form() -> None:
    native = Counter(content(q) for q in load_questions(MINI).questions)
    parts = [load_questions(MINI / f"med_r1_{part}.json") for part in ("train", "test")]
    assert [len(part.questions) for part in parts] == [1_923, 589]
    assert Counter(content(q) for part in parts for q in part.questions) == native
    assert [part.warnings["unknown_modality"] for part in parts] == [1_923, 589]


@needs_mini
def test_mini_images_all_open() -> None:
    report = build_report(load_questions(MINI, skip_bad=True), decode=False)
    assert report.ok
    assert report.images is not None
    assert (report.images.num_paths, report.images.num_missing, report.images.unreadable) == (1_216, 0, ())


@needs_mini
def test_mini_converted_and_split(tmp_path: Path) -> None:
    result = convert(MINI, tmp_path / "out", split="image", seed=1)
    loaded = load_questions(tmp_path / "out")
    assert len(loaded.questions) == 2_512
    assert result.num_images == 1_216
    report = build_report(loaded, decode=False)
    assert report.num_images_in_several_splits == 0
    for split, share in {"train": 0.7, "validation": 0.1, "test": 0.2}.items():
        assert abs(report.splits[split] / 2_512 - share) < 0.01


def test_every_modality_has_a_cell() -> None:
    assert set(CELLS) == {m.value for m in Modality if m is not Modality.UNKNOWN}
