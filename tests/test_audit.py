"""The audit's measurements, each against a slow obvious version, a planted fault or the released files."""

from __future__ import annotations

import io
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osler.audit.baselines import BLIND, answer_from_text, by_modality
from osler.audit.blind import fit_blind
from osler.audit.findings import ABOVE_CHANCE_FAULT, CHECKS, MIN_QUESTIONS, Level, make_finding
from osler.audit.leakage import find_overlaps, read_images
from osler.audit.perceptual import NEAR_BITS, NUM_BITS, near_pairs, perceptual_hash
from osler.audit.readers import READERS
from osler.evaluate.stats import accuracy_interval, chance_level
from osler.phantom.questions import IMAGINGS, draw_questions
from osler.records import Modality, Question
from released_questions import released_questions

RULES = {reader.name: reader for reader in READERS}
WORDS = ("cyst", "abscess", "tumour", "infarct", "bleeding", "oedema", "stone", "hernia")


# --- perceptual hash -------------------------------------------------------------------------------


def slow_bits(image: Image.Image) -> list[bool]:
    """The definition, sum by sum: 64 x 64 grey pixels, DCT-II, 16 x 16 lowest, above their median."""
    pixels = np.asarray(image.convert("L").resize((64, 64), Image.Resampling.LANCZOS), dtype=float)
    basis = [[math.cos(math.pi * (2 * x + 1) * u / 128) for x in range(64)] for u in range(16)]
    low = [
        sum(basis[u][y] * basis[v][x] * pixels[y, x] for y in range(64) for x in range(64))
        for u in range(16)
        for v in range(16)
    ]
    ordered = sorted(low)
    return [value > (ordered[127] + ordered[128]) / 2 for value in low]


def phantom_images(modality: Modality, count: int, part: str) -> list[Image.Image]:
    scenes = draw_questions(modality, count, 0, part)[0]
    return [Image.fromarray(IMAGINGS[modality].render(scene, 168)) for scene in scenes]


def test_the_hash_is_what_its_definition_says() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (80, 100, 3), dtype=np.uint8))
    words = perceptual_hash(image)
    assert words.shape == (NUM_BITS // 64,)
    bits = [bool(int(word) >> (63 - i) & 1) for word in words for i in range(64)]
    assert bits == slow_bits(image)


@pytest.mark.parametrize("modality", [Modality.CT, Modality.FUNDUS, Modality.XRAY])
def test_copies_are_near_and_other_images_far(modality: Modality) -> None:
    images = phantom_images(modality, 8, "train")
    hashes = [perceptual_hash(image) for image in images]
    copies = []
    for image in images:
        buffer = io.BytesIO()
        image.convert("RGB").resize((112, 112)).save(buffer, "JPEG", quality=60)
        copies.append(perceptual_hash(Image.open(buffer)))
    assert [(i, j) for i, j, _ in near_pairs(copies, hashes)] == [(i, i) for i in range(8)]
    other = [perceptual_hash(image) for image in phantom_images(modality, 8, "test")]
    assert near_pairs(other, hashes) == []


def test_near_pairs_are_those_of_a_double_loop() -> None:
    rng = np.random.default_rng(1)
    first = [rng.integers(0, 2**64, 4, dtype=np.uint64) for _ in range(150)]
    second = [
        h ^ np.array([(1 << int(rng.integers(0, 20))) - 1, 0, 0, 0], dtype=np.uint64) for h in first[::2]
    ]

    def differing(a: np.ndarray, b: np.ndarray) -> int:
        return sum((int(x) ^ int(y)).bit_count() for x, y in zip(a, b, strict=True))

    wanted = []
    for i, one in enumerate(first):
        bits = [differing(one, other) for other in second]
        if min(bits) <= NEAR_BITS:
            wanted.append((i, bits.index(min(bits)), min(bits)))
    assert near_pairs(first, second) == wanted and 0 < len(wanted) < 75
    assert near_pairs([], second) == near_pairs(first, []) == []


# --- readers ------------------------------------------------------------------------------------------


def plain(count: int, seed: int, change: Callable[[str, bool], str] = lambda text, _: text) -> list[Question]:
    """Right and wrong choices from one set; `change` gets a text and whether it is right."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        drawn = [str(word) for word in rng.choice(WORDS, 4, replace=False)]
        answer = int(rng.integers(4))
        choices = tuple(change(text, i == answer) for i, text in enumerate(drawn))
        made.append(Question(id=f"{seed}-{number}", text="What is it?", choices=choices, answer_index=answer))
    return made


def share(rule: str, train: list[Question], test: list[Question]) -> float:
    chosen = RULES[rule].fit(train).predict(test)
    return float(np.mean(chosen == [q.answer_index for q in test]))


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("full_stop", lambda text, right: text if right else f"{text}."),
        ("length", lambda text, right: f"{text} of the left and right side" if right else text),
        ("odd_one_out", lambda text, right: text if right else text.capitalize()),
        ("option_prior", lambda text, right: text if right else f"{text} x"),
        ("stem_lookup", lambda text, right: text if right else f"{text} x"),
    ],
)
def test_a_reader_finds_its_own_cue(rule: str, change: Callable[[str, bool], str]) -> None:
    assert share(rule, plain(200, 0, change), plain(200, 1, change)) == 1.0


def test_readers_of_position_stem_and_yes_or_no_find_theirs() -> None:
    def always_b(seed: int) -> list[Question]:
        return [
            replace(q, choices=(q.choices[1], q.answer, q.choices[2]), answer_index=1)
            for q in plain(60, seed)
            if q.answer not in (q.choices[1], q.choices[2])
        ]

    assert share("letter", always_b(0), always_b(1)) == 1.0
    named = [replace(q, text=f"Is there a {q.answer} here?") for q in plain(120, 2)]
    assert share("named_in_stem", named[:60], named[60:]) == 1.0
    polar = [
        Question(id=str(n), text="Is it?", choices=("Yes", "No")[:: 1 - 2 * (n % 2)], answer_index=1 - n % 2)
        for n in range(100)
    ]
    assert {q.answer for q in polar} == {"No"} and share("yes_no", polar[:50], polar[50:]) == 1.0


def test_the_label_free_prior_sees_no_answer() -> None:
    train = plain(200, 0, lambda text, right: text if right else f"{text} {len(text)}{right}")
    turned = [replace(q, answer_index=(q.answer_index + 1) % 4) for q in train]
    test = plain(100, 1)
    first, second = (RULES["label_free_prior"].fit(part).predict(test) for part in (train, turned))
    assert np.array_equal(first, second)


def test_all_readers_guess_where_nothing_is_to_be_learnt() -> None:
    train, test = plain(2000, 0), plain(3000, 1)
    for rule in RULES:
        assert abs(share(rule, train, test) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 3000), rule
        assert RULES[rule].fit([]).predict(test[:5]).shape == (5,)


def test_the_stem_lookup_is_that_of_a_dictionary() -> None:
    """Right / seen of (stem, choice), else of the choice, else chance; one more of each at chance level."""
    rng = np.random.default_rng(3)
    questions = [replace(q, text=f"Which? {rng.integers(5)}") for q in plain(300, 4)]
    train, test = questions[:150], questions[150:]
    right: Counter[tuple[str, str]] = Counter()
    seen: Counter[tuple[str, str]] = Counter()
    for q in train:
        for i, choice in enumerate(q.choices):
            for stem in (q.text.lower(), "any"):
                seen[stem, choice] += 1
                right[stem, choice] += i == q.answer_index
    fitted = RULES["stem_lookup"].fit(train)
    for q in test:
        wanted = []
        for choice in q.choices:
            key = next((k for k in ((q.text.lower(), choice), ("any", choice)) if seen[k]), None)
            wanted.append(0.25 if key is None else (right[key] + 0.25) / (seen[key] + 1))
        assert fitted.scores(q) == pytest.approx(wanted)


def test_evidence_counts_what_decided() -> None:
    train = plain(50, 0, lambda text, right: text if right else f"{text}.")
    fitted = RULES["full_stop"].fit(train)
    (line,) = fitted.evidence(train, fitted.predict(train))
    assert line == "without a full stop (1 of 4) (right 50 of 50 times in training; decides 50 here)"


# --- overlaps --------------------------------------------------------------------------------------------


def at(number: int, image: str, **other: object) -> Question:
    facts = {
        "id": f"q{number}", "text": f"Stem {number}?", "choices": ("Cyst", "Stone"), "answer_index": 0,
        "images": (image,), "modality": Modality.CT,
    }  # fmt: skip
    return Question(**{**facts, **other})  # type: ignore[arg-type]


def flagged(train: list[Question], test: list[Question]) -> dict[str, list[int]]:
    overlaps = find_overlaps(train, test, read_images([*train, *test], workers=1))
    return {name: np.flatnonzero(found.flags).tolist() for name, found in overlaps.items()}


def test_overlaps_of_paths_stems_and_problems() -> None:
    train = [at(0, "a.png"), at(1, "b.png", choices=("Stone", "cyst."), answer_index=1)]
    test = [
        at(10, "a.png", text="Stem 0?"),  # image and stem
        at(11, "a.png"),  # image
        at(12, "c.png", text="stem  1?", choices=("Cyst", "Stone")),  # problem, in other words and order
        at(13, "d.png", text="Stem 1?", choices=("Cyst", "Mass")),  # stem
    ]
    found = flagged(train, test)
    assert found["image_overlap"] == [0, 1]
    assert found["image_question_overlap"] == [0]
    assert found["stem_overlap"] == [0, 2, 3]
    assert found["problem_overlap"] == [0, 2]
    assert "near_image_overlap" not in found


def test_wrong_choices_that_were_never_right_are_counted_by_modality() -> None:
    train = [at(0, "a.png"), at(1, "b.png", modality=Modality.MRI, answer_index=1)]
    test = [
        at(10, "c.png"),  # Stone was right in MRI only
        at(11, "d.png", answer_index=1),  # Cyst was right in CT
        at(12, "e.png", modality=Modality.OCT),  # no training questions: says nothing
    ]
    assert flagged(train, test)["wrong_never_right"] == [0]


def test_paths_that_name_the_answer_and_equal_choices() -> None:
    test = [
        at(0, "/data/stone/set/cyst_left/1.png"),
        at(1, "/data/stone/set/cyst/stone 2.png"),
        at(2, "/data/stone/set/stone/3.png"),
        at(3, "/data/stone/set/cysts/4.png", choices=("Cyst", "Stone", "stone.")),
    ]
    found = flagged([], test)
    assert found["gold_in_path"] == [0]
    assert found["equal_choices"] == [3]


def test_images_are_compared_by_content_and_copies_found(tmp_path: Path) -> None:
    first, second = phantom_images(Modality.MRI, 2, "train")
    (third,) = phantom_images(Modality.MRI, 1, "test")
    first.save(tmp_path / "a.png")
    first.save(tmp_path / "same bytes.png")
    second.save(tmp_path / "b.png")
    second.convert("RGB").resize((120, 120)).save(tmp_path / "copy.jpg", quality=70)
    third.save(tmp_path / "other.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    train = [at(n, str(tmp_path / name)) for n, name in enumerate(("a.png", "b.png"))]
    names = ("same bytes.png", "copy.jpg", "other.png", "broken.png", "missing.png")
    test = [at(10 + n, str(tmp_path / name)) for n, name in enumerate(names)]
    found = flagged(train, test)
    assert found["image_overlap"] == [0] and found["near_image_overlap"] == [1]
    images = read_images([*train, *test], workers=1)
    assert images.num_read == 5 and len(images.unreadable) == 1 and "broken.png" in images.unreadable[0]


# --- baselines and findings -------------------------------------------------------------------------------


def test_every_modality_is_fitted_on_its_own_and_processes_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts: list[dict[Modality, list[Question]]] = [defaultdict(list), defaultdict(list)]
    for modality in (Modality.CT, Modality.MRI):
        for part, (images, name) in zip(parts, ((200, "train"), (100, "test")), strict=True):
            part[modality] += draw_questions(modality, images, 0, name)[1]
    train, test = ([q for own in part.values() for q in own] for part in parts)
    alone = answer_from_text(by_modality(train), by_modality(test), workers=1)
    monkeypatch.setattr("osler.audit.baselines._ALONE", 0)
    spread = answer_from_text(by_modality(train), by_modality(test), workers=2)
    for modality, one in alone.items():
        model = fit_blind(parts[0][modality])
        assert set(one.own) == {*RULES, BLIND} and one.num_train == 400
        assert np.array_equal(one.own[BLIND], model.predict(parts[1][modality]))
        for other, chosen in one.across.items():
            assert np.array_equal(chosen, model.predict(parts[1][other]))
            assert np.array_equal(chosen, spread[modality].across[other])
        assert list(one.curve) == [100, 300]
        assert all(np.array_equal(one.own[name], spread[modality].own[name]) for name in one.own)
        assert one.evidence == spread[modality].evidence


def test_a_rule_is_judged_by_the_lower_end_of_its_interval() -> None:
    clusters = list(range(400))
    for right, level in ((110, Level.OK), (141, Level.WARNING), (220, Level.FAULT)):
        flags = np.arange(400) < right
        finding = make_finding("length", "ct", flags, clusters, chance=0.25)
        bounds = accuracy_interval(flags, clusters)
        assert (finding.share, finding.interval, finding.n) == (right / 400, bounds, 400)
        assert finding.level is level
        assert (bounds.low - 0.25 > ABOVE_CHANCE_FAULT) == (level is Level.FAULT)
    few = make_finding(
        "length", "ct", np.ones(MIN_QUESTIONS - 1, dtype=bool), clusters[: MIN_QUESTIONS - 1], 0.25
    )
    assert few.level is Level.NOTE


def test_a_share_is_judged_by_itself_and_every_check_has_a_place() -> None:
    clusters = list(range(1000))
    for count, level in ((0, Level.OK), (1, Level.WARNING), (10, Level.WARNING), (11, Level.FAULT)):
        assert make_finding("image_overlap", "all", np.arange(1000) < count, clusters).level is level
    assert make_finding("stem_overlap", "all", np.ones(9, dtype=bool), clusters[:9]).level is Level.NOTE
    judged = {name for name, check in CHECKS.items() if check.is_accuracy}
    assert judged == {*RULES, BLIND}


# --- the released files ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "overlap", "chance"),
    [("X-Ray", 32.57, 25.7), ("OCT", 29.83, 25.9), ("Microscopy", 27.75, 27.0), ("Fundus", 9.65, 27.3)],
)
def test_released_files_overlap_as_counted_by_other_code(name: str, overlap: float, chance: float) -> None:
    """The unpublished audit of docs/decisions/0007-blind-baseline.md."""
    train, test = released_questions("train", name), released_questions("test", name)
    found = find_overlaps(train, test, read_images([*train, *test], workers=1))
    assert 100 * found["image_overlap"].flags.mean() == pytest.approx(overlap, abs=0.005)
    assert 100 * chance_level([len(q.choices) for q in test]) == pytest.approx(chance, abs=0.05)
    assert found["image_question_overlap"].flags.sum() == 0
