"""Reading the four formats: what is tolerated, what is an error, and how errors name their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from osler.data.load import load_questions
from osler.errors import BadInput
from osler.records import Modality, QuestionType


def omni_row(number: int = 0, **changes: Any) -> dict[str, Any]:
    row = {
        "dataset": "BUSI",
        "question_id": f"BUSI_{number:04d}",
        "question_type": "Disease Diagnosis",
        "question": "What is seen?",
        "gt_answer": "Cyst",
        "image_path": "Images/BUSI/a.png",
        "option_A": "Tumour",
        "option_B": "Cyst",
        "option_C": "Abscess",
        "option_D": "Nothing",
        "modality_type": "ultrasound",
    }
    return {key: value for key, value in (row | changes).items() if value is not ...}


def write_omni(root: Path, rows: list[Any], name: str = "BUSI.json", access: str = "Open-access") -> Path:
    folder = root / "QA_information" / access
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(rows), encoding="utf-8")
    (root / "Images" / "BUSI").mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8)).save(root / "Images" / "BUSI" / "a.png")
    return root


def write_json(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


MED_R1 = {"image": "Images/BUSI/a.png", "problem": "Seen? A)Cyst, B)None", "solution": "<answer> A </answer>"}
MEDVLM_R1 = {
    "image": ["images/a.png"],
    "problem": "Seen?\nA) Cyst\nB) None",
    "solution": "B",
    "question": "Seen?",
    "options": ["Cyst", "None"],
    "answer": "None",
    "dataset": "OmniMedVQA",
    "subset": "X-Ray",
}


# --- OmniMedVQA -------------------------------------------------------------------------------------


def test_omnimedvqa_row_becomes_a_question(tmp_path: Path) -> None:
    loaded = load_questions(write_omni(tmp_path, [omni_row()]))
    (question,) = loaded.questions
    assert loaded.format == "omnimedvqa"
    assert question.id == "BUSI_0000"
    assert question.choices == ("Tumour", "Cyst", "Abscess", "Nothing")
    assert (question.answer_index, question.answer_letter, question.answer) == (1, "B", "Cyst")
    assert question.images == (str(tmp_path / "Images/BUSI/a.png"),)
    assert question.modality is Modality.ULTRASOUND
    assert question.question_type is QuestionType.DISEASE_DIAGNOSIS
    assert question.dataset == "BUSI"
    assert question.source == "QA_information/Open-access/BUSI.json row 1"
    assert not loaded.warnings


@pytest.mark.parametrize(
    ("changes", "modality", "num_choices"),
    [
        ({"option_D": ...}, Modality.ULTRASOUND, 3),
        ({"option_C": ..., "option_D": ...}, Modality.ULTRASOUND, 2),
        ({"option_C": None, "option_D": None}, Modality.ULTRASOUND, 2),
        ({"option_E": "Fat"}, Modality.ULTRASOUND, 5),
        ({"modality_type": ..., "modality": "CT(Computed Tomography)"}, Modality.CT, 4),
        ({"modality_type": "OCT (Optical Coherence Tomography"}, Modality.OCT, 4),
        ({"modality_type": "OCT (Optical Coherence Tomography)"}, Modality.OCT, 4),
        ({"modality_type": "MR (Mag-netic Resonance Imaging)"}, Modality.MRI, 4),
    ],
)
def test_omnimedvqa_oddities_are_read(
    tmp_path: Path, changes: dict[str, Any], modality: Modality, num_choices: int
) -> None:
    (question,) = load_questions(write_omni(tmp_path, [omni_row(**changes)])).questions
    assert question.modality is modality
    assert len(question.choices) == num_choices


def test_both_access_folders_are_read(tmp_path: Path) -> None:
    write_omni(tmp_path, [omni_row(1)])
    write_omni(tmp_path, [omni_row(2)], name="Other.json", access="Restricted-access")
    (tmp_path / "QA_information" / "Open-access" / "._BUSI.json").write_bytes(b"\x00\x05")
    assert [q.id for q in load_questions(tmp_path).questions] == ["BUSI_0001", "BUSI_0002"]


def test_a_single_omnimedvqa_file_finds_its_root(tmp_path: Path) -> None:
    write_omni(tmp_path, [omni_row()])
    (question,) = load_questions(tmp_path / "QA_information" / "Open-access" / "BUSI.json").questions
    assert Path(question.images[0]).is_file()


# --- bad rows ---------------------------------------------------------------------------------------

BAD_ROWS = {
    "unknown modality label": ({"modality_type": "Endoscopy"}, "Endoscopy"),
    "unknown question type": ({"question_type": "Counting"}, "Counting"),
    "answer is no choice": ({"gt_answer": "Stone"}, '"Stone" is none of the choices'),
    "answer equals a second choice": ({"option_D": "Cyst"}, "equals choice D"),
    "answer equals a second choice but for case and stop": ({"option_D": "cyst."}, "equals choice D"),
    "one choice": ({"option_A": ..., "option_B": ..., "option_C": ..., "option_D": ...}, "0 choices"),
    "a hole in the options": ({"option_A": ...}, "no `option_A` but a later option"),
    "empty choice": ({"option_C": "  "}, "choice C is empty"),
    "invisible choice": ({"option_C": "\u200b"}, "choice C is empty"),
    "empty question": ({"question": " \n"}, "question is empty"),
    "no question": ({"question": ...}, "no `question`"),
    "no answer": ({"gt_answer": ...}, "no `gt_answer`"),
    "question is a list": ({"question": ["What?"]}, "`question` is not a text"),
    "no id": ({"question_id": ...}, "no `question_id`"),
    "no image": ({"image_path": ...}, "no `image_path`"),
    "missing image": ({"image_path": "Images/BUSI/b.png"}, '"Images/BUSI/b.png" is not there'),
    "a folder for an image": ({"image_path": "Images/BUSI"}, "is not a file"),
    "zero byte in path": ({"image_path": "Images/\x00.png"}, "control character"),
    "duplicate id": ({"question_id": "BUSI_0000"}, "is taken by QA_information/Open-access/BUSI.json row 1"),
}


@pytest.mark.parametrize(("changes", "reason"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_bad_rows_name_file_row_and_reason(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    root = write_omni(tmp_path, [omni_row(0), omni_row(**({"question_id": "BUSI_0001"} | changes))])
    with pytest.raises(BadInput) as raised:
        load_questions(root)
    message = str(raised.value)
    assert "\n" not in message
    assert "1 of 2 rows are bad: QA_information/Open-access/BUSI.json row 2: " in message
    assert reason in message
    loaded = load_questions(root, skip_bad=True)
    assert [q.id for q in loaded.questions] == ["BUSI_0000"]
    assert [(b.file, b.row) for b in loaded.bad] == [("QA_information/Open-access/BUSI.json", 2)]
    assert reason in loaded.bad[0].reason
    assert loaded.num_rows == 2


def test_missing_images_matter_only_with_images(tmp_path: Path) -> None:
    root = write_omni(tmp_path, [omni_row(0), omni_row(1, image_path="Images/none.png")])
    loaded = load_questions(root, no_images=True)
    assert loaded.questions[1].images == ("Images/none.png",)
    assert not loaded.images_checked
    skipped = load_questions(root, skip_bad=True)
    assert skipped.missing_images == (str(tmp_path / "Images/none.png"),)
    with pytest.raises(BadInput, match="--images ROOT"):
        load_questions(root)


def test_zero_byte_image_is_bad(tmp_path: Path) -> None:
    root = write_omni(tmp_path, [omni_row()])
    (tmp_path / "Images/BUSI/a.png").write_bytes(b"")
    with pytest.raises(BadInput, match="is an empty file"):
        load_questions(root)


def test_choices_beyond_26_are_bad(tmp_path: Path) -> None:
    row = {"text": "Which?", "choices": [f"v{n}" for n in range(27)], "answer_index": 0}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row))
    with pytest.raises(BadInput, match="27 choices, and there are 26 letters"):
        load_questions(tmp_path)


def test_only_the_first_bad_rows_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    root = write_omni(tmp_path, [omni_row(n, gt_answer="Stone") for n in range(9)] + [omni_row(9)])
    with pytest.raises(BadInput, match="9 of 10 rows are bad") as raised:
        load_questions(root)
    assert str(raised.value).count("is none of the choices") == 3
    assert "and 6 more" in str(raised.value)


def test_nothing_but_bad_rows_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    root = write_omni(tmp_path, [omni_row(gt_answer="Stone")])
    with pytest.raises(BadInput, match="1 of 1 rows are bad"):
        load_questions(root, skip_bad=True)


# --- warnings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"option_C": "Tumour"}, "equal_choices"),
        ({"option_C": " tumour."}, "nearly_equal_choices"),
        ({"option_C": "TUMOUR"}, "nearly_equal_choices"),
        ({"question": "What\x07 is seen?"}, "control_characters"),
        ({"option_A": "Tumour\u202e"}, "control_characters"),
        ({"question": "lone \ud800 half"}, "control_characters"),
    ],
)
def test_usable_oddities_are_counted(tmp_path: Path, changes: dict[str, Any], kind: str) -> None:
    loaded = load_questions(write_omni(tmp_path, [omni_row(**changes)]))
    assert loaded.warnings == {kind: 1}
    assert loaded.warning_examples[kind] == ("QA_information/Open-access/BUSI.json row 1",)


def test_control_characters_are_normalised(tmp_path: Path) -> None:
    text = "\ufeffOne\x00 two\x1b[31m\u200b\ttab\r\nnext\u2028third \u200f\U000e0041 \ud83d"
    (question,) = load_questions(write_omni(tmp_path, [omni_row(question=text)])).questions
    assert question.text == "One two[31m tab\nnext\nthird  \ufffd"
    question.text.encode("utf-8")


def test_letters_of_other_scripts_stay(tmp_path: Path) -> None:
    words = "می\u200cشود µm ± 5 ° – naïve 心臓"
    loaded = load_questions(write_omni(tmp_path, [omni_row(option_A=words)]))
    assert loaded.questions[0].choices[0] == words
    assert not loaded.warnings


def test_the_same_question_under_two_ids_is_counted(tmp_path: Path) -> None:
    loaded = load_questions(write_omni(tmp_path, [omni_row(0), omni_row(1)]))
    assert loaded.warnings == {"repeated_question": 1}


# --- files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_byte_order_mark_and_crlf(tmp_path: Path, before: bytes, line_end: bytes) -> None:
    write_omni(tmp_path, [])
    file = tmp_path / "QA_information" / "Open-access" / "BUSI.json"
    file.write_bytes(before + json.dumps([omni_row()], indent=1).encode().replace(b"\n", line_end))
    assert len(load_questions(tmp_path).questions) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'[\n{"a": 1},\n{"b": \n', "line 4"),
        (b'[\n{"a": 1,\n"b": NaN}]', "line 3: NaN is not JSON"),
        (b'[{"a": "NaN", "b": -Infinity}]', "line 1: -Infinity is not JSON"),
        (b'[\n"caf\xe9"]', "not UTF-8 at byte 6 (line 2)"),
        (b'\xef\xbb\xbf[\n"caf\xe9"]', "not UTF-8 at byte 9 (line 2)"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"questions": []}', "holds a JSON object, not a list"),
        (b"[" + b"9" * 5000 + b"]", "thousands of digits"),
        (b"[]", "no row has the keys"),
        (b'[{"prompt": "x"}]', "no row has the keys"),
        (b"", "line 1"),
    ],
)
def test_broken_json_names_file_and_line(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "broken.json"
    file.write_bytes(content)
    with pytest.raises(BadInput) as raised:
        load_questions(file)
    message = str(raised.value)
    assert "broken.json" in message
    assert expected in message
    assert "\n" not in message


def test_a_bad_line_of_jsonl_is_a_bad_row(tmp_path: Path) -> None:
    good = json.dumps({"text": "Which?", "choices": ["a", "b"], "answer_index": 0})
    (tmp_path / "questions.jsonl").write_text(f'{good}\n\n{{"text": NaN}}\n[1]\n{good[:-5]}\n')
    loaded = load_questions(tmp_path, skip_bad=True)
    assert [str(bad).split(";")[0] for bad in loaded.bad] == [
        "questions.jsonl row 3: NaN is not JSON",
        "questions.jsonl row 4: is not a JSON object",
        "questions.jsonl row 5: not JSON (Unterminated string starting at, column 43)",
    ]
    assert [q.id for q in loaded.questions] == ["questions_00001"]


@pytest.mark.parametrize("name", ["nothing", "empty", "data.csv"])
def test_paths_without_questions(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.csv").write_text("a,b\n")
    with pytest.raises(BadInput, match=name):
        load_questions(tmp_path / name)


def test_an_images_root_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        load_questions(write_omni(tmp_path, [omni_row()]), images_root=tmp_path / "none")


def test_messages_obey_no_terminal_codes(tmp_path: Path) -> None:
    row = omni_row(gt_answer="\x1b[2J\nevil\u202e" + "x" * 500)
    with pytest.raises(BadInput) as raised:
        load_questions(write_omni(tmp_path, [row]))
    message = str(raised.value)
    assert message.isprintable()
    assert "x" * 100 not in message


# --- the papers' files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "modality", "question_type", "split"),
    [
        ("CT(Computed Tomography)_test.json", "ct", "unknown", "test"),
        ("MR (Mag-netic Resonance Imaging)_train.json", "mri", "unknown", "train"),
        ("OCT (Optical Coherence Tomography_test.json", "oct", "unknown", "test"),
        ("Fundus_test.json", "fundus", "unknown", "test"),
        ("X-Ray_train.json", "xray", "unknown", "train"),
        ("Lesion Grading_test.json", "unknown", "lesion_grading", "test"),
        ("Other Biological Attributes_train.json", "unknown", "other_biological_attributes", "train"),
        ("Yangxi_filtered_test.json", "fundus", "unknown", "test"),
        ("RadImageNet_filtered_test.json", "unknown", "unknown", "test"),
        ("unknown_train.json", "ct", "unknown", "train"),
        ("med_r1_train.json", "unknown", "unknown", "train"),
        ("mine.json", "unknown", "unknown", ""),
    ],
)
def test_med_r1_file_names(tmp_path: Path, name: str, modality: str, question_type: str, split: str) -> None:
    loaded = load_questions(write_json(tmp_path / name, [MED_R1]), no_images=True)
    (question,) = loaded.questions
    assert loaded.format == "med_r1"
    assert (question.modality, question.question_type, question.split) == (modality, question_type, split)
    assert question.id == f"{name.removesuffix('.json')}_00001"
    assert question.dataset == "BUSI"
    assert (question.text, question.choices, question.answer_index) == ("Seen?", ("Cyst", "None"), 0)
    assert ("unknown_modality" in loaded.warnings) == (modality == "unknown")


def test_the_unknown_file_means_ct_for_its_one_row_only(tmp_path: Path) -> None:
    path = write_json(tmp_path / "unknown_train.json", [MED_R1, MED_R1])
    assert {q.modality for q in load_questions(path, no_images=True).questions} == {Modality.UNKNOWN}


def test_modality_fills_in_and_never_overrules(tmp_path: Path) -> None:
    mine = write_json(tmp_path / "mine.json", [MED_R1])
    assert load_questions(mine, no_images=True, modality="mri").questions[0].modality is Modality.MRI
    known = write_json(tmp_path / "X-Ray_train.json", [MED_R1])
    assert load_questions(known, no_images=True, modality="xray").questions[0].modality is Modality.XRAY
    with pytest.raises(BadInput, match="is xray, but the modality mri was given"):
        load_questions(known, no_images=True, modality="mri")
    with pytest.raises(BadInput, match="one of ct, mri, xray"):
        load_questions(mine, no_images=True, modality="MR")


def test_images_start_at_the_folder_of_the_file_or_at_images_root(tmp_path: Path) -> None:
    images = write_omni(tmp_path / "omni", [])
    here = write_json(images / "mine.json", [MED_R1])
    assert load_questions(here).questions[0].images == (str(images / "Images/BUSI/a.png"),)
    away = write_json(tmp_path / "mine.json", [MED_R1])
    with pytest.raises(BadInput, match="is not there"):
        load_questions(away)
    assert load_questions(away, images_root=images).questions[0].images == (
        str(images / "Images/BUSI/a.png"),
    )


def test_a_folder_of_med_r1_files(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        write_json(tmp_path / part / f"X-Ray_{part}.json", [MED_R1])
    loaded = load_questions(tmp_path, no_images=True)
    assert [q.split for q in loaded.questions] == ["test", "train"]
    assert loaded.files == ("test/X-Ray_test.json", "train/X-Ray_train.json")
    assert len(load_questions(tmp_path, no_images=True, split="train").questions) == 1
    with pytest.raises(BadInput, match="no split 'validation'; it has test, train"):
        load_questions(tmp_path, no_images=True, split="validation")


def test_ids_of_files_with_one_name_differ_by_folder(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_json(tmp_path / folder / "mine.json", [MED_R1])
    loaded = load_questions(tmp_path, no_images=True)
    assert [q.id for q in loaded.questions] == ["a/mine_00001", "b/mine_00001"]


def test_the_two_med_r1_families_are_never_mixed(tmp_path: Path) -> None:
    write_json(tmp_path / "X-Ray_train.json", [MED_R1])
    write_json(tmp_path / "Lesion Grading_train.json", [MED_R1])
    with pytest.raises(BadInput, match="two splits of the same questions"):
        load_questions(tmp_path, no_images=True)


def test_two_formats_in_one_folder(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", [MED_R1])
    write_json(tmp_path / "b.json", [MEDVLM_R1])
    with pytest.raises(BadInput, match="two formats, med_r1 and medvlm_r1"):
        load_questions(tmp_path, no_images=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"solution": "<answer> C </answer>"}, '"C" is none of the 2 choices'),
        ({"solution": "Cyst"}, "not one letter"),
        ({"solution": "<answer> A </answer><answer> B </answer>"}, "not one letter"),
        ({"problem": "Seen?"}, "no choices A), B)"),
        ({"problem": "Seen? A)Cyst, B)Cyst"}, "equals choice B"),
        ({"image": None}, "no `image`"),
        ({"image": 7}, "neither a path nor a list"),
    ],
)
def test_bad_med_r1_rows(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = write_json(tmp_path / "mine.json", [MED_R1, MED_R1 | changes])
    with pytest.raises(BadInput, match=r"mine.json row 2") as raised:
        load_questions(path, no_images=True)
    assert reason in str(raised.value)


def test_medvlm_r1_and_huatuogpt_vision(tmp_path: Path) -> None:
    path = write_json(tmp_path / "test.json", [MEDVLM_R1])
    loaded = load_questions(path, no_images=True)
    (question,) = loaded.questions
    assert loaded.format == "medvlm_r1"
    assert (question.text, question.choices, question.answer_index) == ("Seen?", ("Cyst", "None"), 1)
    assert (question.modality, question.dataset) == (Modality.XRAY, "OmniMedVQA")
    assert question.images == ("images/a.png",)
    bare = {key: value for key, value in MEDVLM_R1.items() if key not in ("problem", "solution")}
    two = bare | {"image": ["images/a.png", "images/b.png"], "dataset": "PMC-VQA_test", "subset": "radiology"}
    huatuo = load_questions(write_json(tmp_path / "huatuo.json", [bare, two]), no_images=True)
    assert huatuo.format == "huatuogpt_vision"
    assert [q.modality for q in huatuo.questions] == [Modality.XRAY, Modality.UNKNOWN]
    assert huatuo.questions[1].images == ("images/a.png", "images/b.png")


def test_medvlm_r1_without_options_is_cut_from_the_problem(tmp_path: Path) -> None:
    row = {k: v for k, v in MEDVLM_R1.items() if k not in ("options", "answer", "question")}
    (question,) = load_questions(write_json(tmp_path / "test.json", [row]), no_images=True).questions
    assert (question.text, question.choices, question.answer_index) == ("Seen?", ("Cyst", "None"), 1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"solution": "A"}, "`solution` A is not `answer`"),
        ({"solution": "C"}, "`solution` C is not `answer`"),
        ({"subset": "Xray images"}, "is no modality known here"),
        ({"options": "Cyst; None"}, "`options` is not a list of texts"),
        ({"answer": "Stone", "solution": None}, "none of the choices"),
    ],
)
def test_bad_medvlm_r1_rows(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = write_json(tmp_path / "test.json", [MEDVLM_R1, MEDVLM_R1 | changes])
    with pytest.raises(BadInput, match=r"test.json row 2") as raised:
        load_questions(path, no_images=True)
    assert reason in str(raised.value)


# --- parts and subjects -----------------------------------------------------------------------------


def test_a_root_with_train_and_test_folders(tmp_path: Path) -> None:
    write_omni(tmp_path / "train", [omni_row(1)])
    write_omni(tmp_path / "test", [omni_row(2), omni_row(3, gt_answer="Stone")])
    (question,) = load_questions(tmp_path, split="train").questions  # the bad row of test is not even read
    assert (question.id, question.split) == ("BUSI_0001", "train")
    assert question.images == (str(tmp_path / "train/Images/BUSI/a.png"),)
    both = load_questions(tmp_path, skip_bad=True)
    assert [q.split for q in both.questions] == ["train", "test"]
    assert both.bad[0].file == "test/QA_information/Open-access/BUSI.json"
    with pytest.raises(BadInput, match="no split 'validation'; it has train, test"):
        load_questions(tmp_path, split="validation")


def test_a_column_of_the_source_can_name_the_subject(tmp_path: Path) -> None:
    root = write_omni(tmp_path, [omni_row(0, patient="p1"), omni_row(1, question="Else?")])
    loaded = load_questions(root, subject_column="patient", skip_bad=True)
    assert [q.subject_id for q in loaded.questions] == ["p1"]
    assert loaded.bad[0].reason == "has no `patient`"
