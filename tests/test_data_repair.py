"""Rebuilt choices: valid ones, which no reader of the text alone can decide between."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from osler.audit.blind import blind_accuracy
from osler.cli import main
from osler.data.answer_pools import ALL_DATA_SETS, answer_key, build_pools, tidy_answer
from osler.data.load import load_questions
from osler.data.permutation import permute_choices
from osler.data.question_types import question_types, type_of_stem
from osler.data.rebuild import REASONS, Repaired, RepairOptions, rebuild_choices
from osler.data.repair_record import read_repair
from osler.errors import BadInput
from osler.evaluate.stats import chance_level
from osler.records import Modality, Question, QuestionType
from released_questions import released_questions

DISEASE = QuestionType.DISEASE_DIAGNOSIS


def ask(number: int, answer: str, **other: object) -> Question:
    """A question whose wrong choices are never right anywhere."""
    facts = {
        "id": f"q{number}",
        "text": "What is seen?",
        "choices": (f"Wrong {number}", answer, f"Odd {number}", f"Rare {number}"),
        "answer_index": 1,
        "images": (f"{number}.png",),
        "modality": Modality.MRI,
        "question_type": DISEASE,
        "dataset": "Brain",
        "split": "train",
    }
    return Question(**{**facts, **other})  # type: ignore[arg-type]


def many(counts: dict[str, int], start: int = 0, **other: object) -> list[Question]:
    answers = [answer for answer, count in counts.items() for _ in range(count)]
    return [ask(start + n, answer, **other) for n, answer in enumerate(answers)]


def by_block(repaired: Repaired) -> dict[tuple[str, str], list[Question]]:
    blocks: dict[tuple[str, str], list[Question]] = defaultdict(list)
    for question in repaired.questions:
        facts = repaired.provenance[question.id]
        if facts["rule"] == "balanced":
            blocks[facts["pool"], facts["block"]].append(question)
    return blocks


# --- balance ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Cyst", "Abscess", "Tumour", "Benign tumour", "Infarct", "Bleeding"]),
            st.sampled_from(["A", "B"]),
            st.sampled_from(["train", "test"]),
            st.integers(0, 30),
        ),
        min_size=2,
        max_size=60,
    )
)
def test_in_every_block_each_choice_is_right_once(drawn: list[tuple[str, str, str, int]]) -> None:
    questions = [
        ask(n, answer, dataset=dataset, split=split, images=(f"{image}.png",))
        for n, (answer, dataset, split, image) in enumerate(drawn)
    ]
    try:
        repaired = rebuild_choices(questions, RepairOptions())
    except BadInput:
        return
    before = {question.id: question for question in questions}
    for (_, block), members in by_block(repaired).items():
        assert len({frozenset(q.choices) for q in members}) == 1
        assert sorted(q.answer for q in members) == sorted(members[0].choices)
        assert {q.split for q in members} == {block.partition("#")[0]}
    for question in repaired.questions:
        old = before[question.id]
        assert answer_key(question.answer) == answer_key(old.answer)
        assert replace(question, choices=old.choices, answer_index=old.answer_index) == old
    left = {question.id for question, _ in repaired.dropped}
    assert left | {q.id for q in repaired.questions} == set(before)
    assert len(left) + len(repaired.questions) == len(questions)


def test_any_reader_of_the_text_is_right_once_per_block() -> None:
    """The strongest one: it knows how often each choice is right among all questions with the same text."""
    counts = {"Cyst": 50, "Abscess": 31, "Tumour": 17, "Infarct": 9, "Bleeding": 3}
    questions = many(counts) + many(counts, 200, split="test")
    repaired = rebuild_choices(questions, RepairOptions(one_stem=True))
    right: dict[object, Counter[str]] = defaultdict(Counter)
    for question in repaired.questions:
        right[question.split, question.text, frozenset(question.choices)][question.answer] += 1
    best = sum(max(found.values()) for found in right.values())
    chance = chance_level([len(q.choices) for q in repaired.questions])
    assert best / len(repaired.questions) == pytest.approx(chance)
    assert len(repaired.questions) > 0.75 * len(questions)


def test_a_refitted_text_model_falls_to_chance_and_the_original_does_not() -> None:
    counts = {"Cyst": 60, "Abscess": 60, "Tumour": 60, "Infarct": 60}
    questions = many(counts) + many(counts, 1000, split="test")
    old = [[q for q in questions if q.split == split] for split in ("train", "test")]
    repaired = rebuild_choices(questions, RepairOptions(one_stem=True)).questions
    new = [[q for q in repaired if q.split == split] for split in ("train", "test")]
    assert blind_accuracy(*old) == 1.0
    for train in (old[0], new[0]):
        assert blind_accuracy(train, new[1]) == pytest.approx(0.25, abs=0.08)


def test_the_result_depends_on_seed_and_questions_and_not_on_their_order() -> None:
    questions = many({"Cyst": 20, "Abscess": 20, "Tumour": 14, "Infarct": 9, "Bleeding": 5})
    first = rebuild_choices(questions, RepairOptions(seed=3))
    turned = rebuild_choices(questions[::-1], RepairOptions(seed=3))
    assert {q.id: q for q in first.questions} == {q.id: q for q in turned.questions}
    assert first.provenance == turned.provenance
    other = rebuild_choices(questions, RepairOptions(seed=4))
    assert {q.id: q.choices for q in first.questions} != {q.id: q.choices for q in other.questions}


def test_no_letter_is_preferred() -> None:
    counts = dict.fromkeys(("Cyst", "Abscess", "Tumour", "Infarct"), 300)
    letters = Counter(q.answer_index for q in rebuild_choices(many(counts), RepairOptions()).questions)
    assert max(abs(letters[i] / 1200 - 0.25) for i in range(4)) < 0.05


# --- which answers may stand together --------------------------------------------------------------


def offered_together(questions: list[Question]) -> set[frozenset[str]]:
    repaired = rebuild_choices(questions, RepairOptions())
    pairs = (product(q.choices, q.choices) for q in repaired.questions)
    return {frozenset(pair) for found in pairs for pair in found if pair[0] != pair[1]}


def test_answers_that_contain_each_other_are_never_offered_together() -> None:
    together = offered_together(
        many({"Melanoma": 9, "Malignant melanoma": 9, "Naevus": 9, "Keratosis": 9, "Wart": 9})
    )
    assert frozenset({"Melanoma", "Malignant melanoma"}) not in together
    assert frozenset({"Melanoma", "Naevus"}) in together


def test_answers_that_one_image_has_are_never_offered_together() -> None:
    questions = many({"Chest": 6, "Lung": 6}, dataset="One") + many(
        {"Hand": 9, "Skull": 9}, 50, dataset="Two"
    )
    both = [
        ask(90, "Chest", images=("x.png",), dataset="One"),
        ask(91, "Lung", images=("x.png",), dataset="One"),
    ]
    together = offered_together(questions + both + many({"Breast": 9}, 100, dataset="Three"))
    assert frozenset({"Chest", "Lung"}) not in together
    # One data set with answers that are true together and one with a single answer: they join.
    assert {frozenset({"Chest", "Breast"}), frozenset({"Lung", "Breast"})} <= together
    assert frozenset({"Chest", "Hand"}) not in together


def test_evidence_from_another_question_type_counts() -> None:
    """The description of a finding is never offered beside its name."""
    text = "A small gap in the centre"
    other = QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES
    questions = many({"Macular hole": 5}) + [
        ask(50 + n, text, images=(f"{n}.png",), question_type=other) for n in range(5)
    ]
    questions += many({"Macular hole": 5, "Drusen": 5, "Oedema": 5}, 100, question_type=other)
    assert frozenset({text, "Macular hole"}) not in offered_together(questions)


def test_a_data_set_that_asks_several_things_is_cut_along_its_stems() -> None:
    head = many({"Head normal": 8, "Head odd": 8}, text="How is the head?")
    tail = [
        replace(q, id=f"t{n}", text="How is the tail?", choices=("a", ("Tail fine", "Tail bent")[n % 2]))
        for n, q in enumerate(head)
    ]
    pools = build_pools(head + tail).pools
    assert [sorted(pool.shown.values()) for pool in pools] == [
        ["Head normal", "Head odd"],
        ["Tail bent", "Tail fine"],
    ]
    assert [pool.stem for pool in pools] == ["How is the head?", "How is the tail?"]


def test_modality_recognition_is_never_pooled_over_data_sets() -> None:
    kind = QuestionType.MODALITY_RECOGNITION
    questions = many({"X-ray": 9}, dataset="One", question_type=kind)
    questions += many({"Mammography": 9}, 50, dataset="Two", question_type=kind)
    questions += many({"Cyst": 3, "Abscess": 3}, 100)
    repaired = rebuild_choices(questions, RepairOptions())
    assert Counter(reason for _, reason in repaired.dropped) == {"one_answer": 18}
    assert not [pool for pool in repaired.pools if ALL_DATA_SETS in pool.name]


def test_modalities_data_sets_and_types_are_never_mixed() -> None:
    questions = many({"Cyst": 4, "Abscess": 4})
    questions += many({"Wart": 4, "Naevus": 4}, 20, modality=Modality.DERMOSCOPY)
    questions += many({"Large": 4, "Small": 4}, 40, question_type=QuestionType.LESION_GRADING)
    questions += many({"Glioma": 4, "Adenoma": 4}, 60, dataset="Other")
    sets = {frozenset(q.choices) for q in rebuild_choices(questions, RepairOptions()).questions}
    assert sets == {
        frozenset(pair)
        for pair in (("Cyst", "Abscess"), ("Wart", "Naevus"), ("Large", "Small"), ("Glioma", "Adenoma"))
    }


def test_one_form_for_one_answer() -> None:
    questions = many({"liver.": 3, "Liver": 2, " Thyroid  glands": 4, "Kidney.": 4})
    repaired = rebuild_choices(questions, RepairOptions()).questions
    assert {c for q in repaired for c in q.choices} == {"Liver", "Thyroid glands", "Kidney"}
    assert tidy_answer("…") == "…" and tidy_answer(".") == "." and answer_key("?") == ("?",)
    assert answer_key("< 5 cm") != answer_key("> 5 cm") and answer_key("1.5") != answer_key("15")


# --- yes and no, stems, share to keep ---------------------------------------------------------------


def yes_no(number: int, answer: str, text: str = "Is it normal?") -> Question:
    return ask(number, answer, text=text, choices=("Yes", "No"), answer_index=("Yes", "No").index(answer))


def test_yes_and_no_are_balanced_within_one_wording_or_dropped() -> None:
    questions = [yes_no(n, "No") for n in range(9)] + [yes_no(20 + n, "Yes") for n in range(3)]
    questions += [yes_no(40 + n, "No", "Is it broken?") for n in range(5)]
    questions += many({"Cyst": 2, "Abscess": 2}, 60)
    balanced = rebuild_choices(questions, RepairOptions())
    kept = [q for q in balanced.questions if set(q.choices) == {"Yes", "No"}]
    assert Counter(q.answer for q in kept) == {"Yes": 3, "No": 3}
    assert {q.text for q in kept} == {"Is it normal?"}
    assert Counter(reason for _, reason in balanced.dropped) == {"yes_no": 11}
    dropped = rebuild_choices(questions, RepairOptions(yes_no="drop"))
    assert {q.answer for q in dropped.questions} == {"Cyst", "Abscess"}


def test_one_stem_is_one_that_fits_most_answers_and_names_none_of_them() -> None:
    texts = ["What is seen?", "What is seen? (Answer: Cyst)", "Which finding is shown?"]
    questions = many({"Cyst": 3, "Abscess": 3}, text=texts[0])
    questions += many({"Cyst": 9}, 20, text=texts[1]) + many({"Tumour": 5, "Cyst": 2}, 40, text=texts[2])
    repaired = rebuild_choices(questions, RepairOptions(one_stem=True)).questions
    assert {q.text for q in repaired} == {"Which finding is shown?"}
    plain = rebuild_choices(questions, RepairOptions()).questions
    assert {q.text for q in plain} > {"Which finding is shown?"}


@pytest.mark.parametrize(("keep", "kept"), [(0.0, 20), (0.5, 50), (1.0, 100)])
def test_keep_takes_surplus_back_and_says_so(keep: float, kept: int) -> None:
    questions = many({"Normal": 90, "Cyst": 10}) + many({"Normal": 9, "Cyst": 9}, 500, split="test")
    repaired = rebuild_choices(questions, RepairOptions(keep=keep))
    rules = Counter(repaired.provenance[q.id]["rule"] for q in repaired.questions if q.split == "train")
    assert rules["balanced"] == 20 and rules.total() == kept
    assert all(set(q.choices) == {"Normal", "Cyst"} for q in repaired.questions)


def test_bad_options_and_nothing_left_are_said() -> None:
    with pytest.raises(BadInput, match="balance or drop"):
        RepairOptions(yes_no="maybe")
    with pytest.raises(BadInput, match="from 0 to 1"):
        RepairOptions(keep=60)
    with pytest.raises(BadInput, match="leaves no question"):
        rebuild_choices(many({"Cyst": 9}), RepairOptions())


def test_permuted_choices_are_a_function_of_seed_epoch_and_id_and_every_order_is_as_likely() -> None:
    question = ask(0, "Cyst")
    orders = Counter(permute_choices(question, 0, epoch).choices for epoch in range(2400))
    assert len(orders) == 24
    assert chisquare(list(orders.values())).pvalue > 1e-3
    for turned in (permute_choices(question, 5, epoch) for epoch in range(20)):
        assert turned.answer == "Cyst"
        assert replace(turned, choices=question.choices, answer_index=question.answer_index) == question
    assert permute_choices(question, 1, 2) == permute_choices(question, 1, 2)
    three = [
        [permute_choices(ask(i, "Cyst"), *key).answer_index for i in range(40)]
        for key in ((0, 0), (0, 1), (1, 0))
    ]
    assert three[0] != three[1] != three[2] != three[0]


# --- question types ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "kind"),
    [
        ("What imaging technique was utilized to obtain this image?", "modality_recognition"),
        ("Which diagnostic technique produced this picture?", "modality_recognition"),
        ("What is the stage of the cancer in this image?", "lesion_grading"),
        ("What body part is captured in this CT scan image?", "anatomy_identification"),
        ("Which joint does the bone in the picture come from?", "anatomy_identification"),
        ("Can you describe any notable attributes of the abnormality?", "other_biological_attributes"),
        ("What type of abnormality is present in this image?", "disease_diagnosis"),
        ("What does this show?", "disease_diagnosis"),
    ],
)
def test_the_words_of_a_stem_name_its_type(stem: str, kind: str) -> None:
    assert type_of_stem(stem) == kind


def test_one_answer_has_one_type_and_a_named_type_stays() -> None:
    unknown = QuestionType.UNKNOWN
    questions = [
        ask(0, "CT", text="What modality is this?", question_type=unknown),
        ask(1, "CT", text="Which modality was used?", question_type=unknown),
        ask(2, "ct.", text="What does this image show?", question_type=unknown),
        ask(3, "CT", text="What modality is this?", question_type=DISEASE),
        yes_no(4, "No", "Is the liver normal?"),
    ]
    questions[4] = replace(questions[4], question_type=unknown)
    kind = QuestionType.MODALITY_RECOGNITION
    assert question_types(questions) == [kind, kind, kind, DISEASE, DISEASE]


# --- on disk and from the command line ----------------------------------------------------------------


def write_source(folder: Path) -> list[Question]:
    questions = many({"Cyst": 8, "Abscess": 5, "Tumour": 3}) + many(
        {"Cyst": 4, "Abscess": 4}, 90, split="test"
    )
    rows = [
        {
            "id": q.id, "text": q.text, "choices": q.choices, "answer_index": q.answer_index,
            "images": q.images, "modality": "mri", "question_type": "disease_diagnosis",
            "dataset": q.dataset, "split": q.split,
        }
        for q in questions
    ]  # fmt: skip
    folder.mkdir()
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return questions


def test_the_record_holds_the_data_as_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_source(tmp_path / "source")
    out = tmp_path / "fixed"
    arguments = ["data", "convert", str(tmp_path / "source"), str(out), "--rebuild-choices", "--one-stem"]
    assert main([*arguments, "--keep", "0.8", "--no-images", "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["repair"]
    assert [row["split"] for row in counts] == ["test", "train"]
    assert all(sum(row["kept"].values()) + sum(row["dropped"].values()) == row["read"] for row in counts)
    assert set(counts[0]["dropped"]) == set(REASONS)
    for split in ("train", "test", None):
        record = read_repair(out, split)
        assert record is not None
        wanted = {q.id: replace(q, images=()) for q in source if split in (None, q.split)}
        assert {q.id: replace(q, source="", images=()) for q in record.before} == wanted
        assert len({q.images for q in record.before}) == len(wanted)
        assert record.rules.keys() | record.reasons.keys() == wanted.keys()
    kept = load_questions(out, no_images=True).questions
    assert json.loads((out / "repair.json").read_text())["options"]["one_stem"] is True
    assert all(q.question_type is DISEASE and len(q.choices) >= 2 for q in kept)
    assert read_repair(tmp_path / "source") is None


def test_parts_of_the_repair_without_it_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_source(tmp_path / "source")
    arguments = ["data", "convert", str(tmp_path / "source"), str(tmp_path / "out"), "--no-images"]
    assert main([*arguments, "--one-stem"]) == 2
    assert "--rebuild-choices" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_released_dermoscopy_questions_fall_to_chance() -> None:
    """Refitted on the repaired training questions: at most 12 points above chance with 60 % kept."""
    parts = {
        split: [
            replace(q, split=split, modality=Modality.DERMOSCOPY, dataset=q.images[0].split("/")[1])
            for q in released_questions(split, "Dermoscopy")
        ]
        for split in ("train", "test")
    }
    for keep, above in ((0.0, 0.02), (0.6, 0.08)):
        options = RepairOptions(one_stem=True, keep=keep)
        repaired = rebuild_choices([*parts["train"], *parts["test"]], options).questions
        new = {split: [q for q in repaired if q.split == split] for split in parts}
        assert all(len(new[split]) > max(keep, 0.5) * len(parts[split]) - 1 for split in parts)
        chance = chance_level([len(q.choices) for q in new["test"]])
        for train in (parts["train"], new["train"]):
            assert blind_accuracy(train, new["test"]) - chance < above
