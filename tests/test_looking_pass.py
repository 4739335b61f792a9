"""`--ablate` and `--rotate` as a whole, with a random tiny model; image tokens computed once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import osler.evaluate.replies as replies_module
import osler.evaluate.runner as runner_module
import osler.policy.features as features_module
import osler.policy.trunks as trunks_module
from osler.cli import main
from osler.data.folder import write_folder
from osler.data.views import Blank, Noise
from osler.errors import BadInput
from osler.evaluate.looking_records import looking_from_json
from osler.evaluate.predictions import read_predictions
from osler.evaluate.run import Request, run_evaluation
from osler.evaluate.scoring import read_text_logprobs
from osler.evaluate.summary import read_findings
from osler.policy.load import load_policy
from osler.prompts import TEMPLATES, question_only
from osler.records import Modality, Question
from osler.report.page import write_report
from osler.rollout.choices import choice_logprobs, text_logprobs
from osler.rollout.engine import complete
from osler.rollout.sampling import Sampling
from stock_forward import naive_logprobs
from test_report import Page

ALL = ("blank-image", "swapped-image", "noise", "choices-only", "question-only")


def questions(images: Path, n: int = 8) -> list[Question]:
    return [
        Question(
            id=f"q{i}",
            text="Which side is bright?",
            choices=("left", "right", "both sides")[: 2 + i % 2],
            answer_index=i % 2,
            images=(str(images / f"{i % 4}.png"),),
            modality=Modality.CT,
            dataset="d",
        )
        for i in range(n)
    ]


@pytest.fixture
def data(tmp_path: Path, image_folder: Path) -> Path:
    write_folder(questions(image_folder), tmp_path / "data")
    return tmp_path / "data"


def ask(tiny: Path, data: Path, out: Path, **changes: Any) -> Any:
    values = {"model": str(tiny), "data": str(data), "out": out, "template": "nothink"}
    values |= {"scorer": "letter-logprob", "max_completion_tokens": 3, "batch_size": 3}
    return run_evaluation(Request(**{**values, **changes}))


def test_every_variant_is_a_predictions_file_and_resumes(
    tiny_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    found = ask(tiny_folder, data, out, ablate=ALL, rotate=True)
    (finding,) = found.findings
    assert finding.kind == "looking"
    files = {p.parent.parent.name: p for p in (out / "variants").glob("*/predictions/*.jsonl")}
    noises = {"noise-faint", "noise-mild", "noise-strong", "noise-drowned"}
    assert set(files) == noises | {
        "blank-image", "swapped-image-of-8", "choices-only", "question-only", "rotated-1", "rotated-2",
    }  # fmt: skip
    for name, path in files.items():
        stored = read_predictions(path)
        assert stored.header.settings["variant"] == name
        assert len(stored.predictions) == (4 if name == "rotated-2" else 8)
    names = {path.name for name, path in files.items() if name != "question-only"}
    assert names == {"data@letter-logprob.jsonl"}
    assert files["question-only"].name == "data@text-logprob.jsonl"
    # The finding on disk is the one that was returned, and the same question gives the same answer again.
    (stored_values,) = read_findings(out, "looking").values()
    assert looking_from_json(stored_values) == finding.values
    before = {name: path.read_bytes() for name, path in files.items()}
    monkeypatch.setattr("osler.evaluate.replies.replies_to", lambda *_: pytest.fail("asked again"))
    assert ask(tiny_folder, data, out, ablate=ALL, rotate=True).findings[0].values == finding.values
    assert {name: path.read_bytes() for name, path in files.items()} == before
    # Another set of questions swaps among itself: another file, and nothing is refused.
    monkeypatch.undo()
    fewer = ask(tiny_folder, data, tmp_path / "other", ablate=("swapped-image",), limit=6)
    more = ask(tiny_folder, data, tmp_path / "other", ablate=("swapped-image",))
    assert (fewer.findings[0].values.n, more.findings[0].values.n) == (6, 8)


def test_variants_asked_together_give_the_files_of_variants_asked_one_by_one(
    tiny_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the run is killed in the middle and goes on."""

    def files(out: Path) -> dict[str, bytes]:
        return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.glob("**/predictions/*.jsonl"))}

    how: dict[str, Any] = {"scorer": "osler", "max_completion_tokens": 6, "rotate": True, "ablate": ALL}
    how["batch_size"] = 8
    sizes: list[int] = []
    die_at = [0]
    real = replies_module.replies_to

    def counted(policy: Any, asked: Sequence[Question], *rest: Any) -> Any:
        sizes.append(len(asked))
        if len(sizes) == die_at[0]:
            raise KeyboardInterrupt
        return real(policy, asked, *rest)

    monkeypatch.setattr(replies_module, "replies_to", counted)
    monkeypatch.setattr(trunks_module, "SAVED_TOKENS", 1)
    ask(tiny_folder, data, tmp_path / "together", **how)
    assert max(sizes) == 8, "a batch is as large as ever"
    calls, expected = len(sizes), files(tmp_path / "together")
    for die_at[0] in (3, calls - 1):
        sizes.clear()
        out = tmp_path / f"killed-{die_at[0]}"
        with pytest.raises(KeyboardInterrupt):
            ask(tiny_folder, data, out, **how)
        die_at[0] = 0
        ask(tiny_folder, data, out, **how)
        assert files(out) == expected
    monkeypatch.setattr(trunks_module, "SAVED_TOKENS", 10**9)
    monkeypatch.setattr(runner_module, "_asked_together", lambda files, _: [[file] for file in files])
    ask(tiny_folder, data, tmp_path / "apart", **how)
    assert files(tmp_path / "apart") == expected


def test_on_the_command_line(
    tiny_folder: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--model", str(tiny_folder), "--data", str(data), "--out", str(tmp_path / "run")]
    arguments += ["--max-completion-tokens", "2", "--template", "nothink"]
    assert main([*arguments, "--ablate", "blank,noise"]) == 2
    assert "did you mean blank-image?" in capfd.readouterr().err
    assert not (tmp_path / "run").exists(), "refused before anything is done"
    assert main([*arguments, "--ablate", "blank-image,choices-only", "--rotate", "--json"]) == 0
    values = json.loads(capfd.readouterr().out)
    assert {e["variant"] for e in values["looking"]["effects"]} == {"blank-image", "choices-only"}
    assert main([*arguments, "--ablate", "blank-image,choices-only", "--rotate"]) == 0
    shown = capfd.readouterr().out
    assert "is it looking?" in shown and "Right without seeing" in shown and "Flip rate" in shown


def test_an_image_ablation_without_images_is_refused_and_an_unreadable_one_left_out(
    tiny_folder: Path, image_folder: Path, data: Path, tmp_path: Path
) -> None:
    broken = next((data / "images").iterdir())
    stored = [json.loads(line) for line in (data / "questions.jsonl").read_text().splitlines()]
    hurt = sum(broken.name in json.dumps(row) for row in stored)
    broken.write_bytes(b"no image")
    found = ask(tiny_folder, data, tmp_path / "run", ablate=("blank-image", "choices-only"))
    values = found.findings[0].values
    assert values.left_out == {v: {"failed technically": hurt} for v in ("blank-image", "choices-only")}
    assert {e.real.n for e in values.effects} == {8 - hurt}
    write_folder([replace(q, images=()) for q in questions(image_folder)], tmp_path / "text")
    with pytest.raises(BadInput, match="no question of text has an image"):
        ask(tiny_folder, tmp_path / "text", tmp_path / "other", ablate=("noise",))


def test_the_page_prints_every_number_of_the_finding(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = ask(tiny_folder, data, out, ablate=ALL, rotate=True).findings[0].values
    facts = write_report([out], tmp_path / "page.html")
    html = facts.path.read_text()
    assert facts.test_sets == ("data@letter-logprob",), "variants are no test sets of their own"
    assert "not finished" not in html
    page = Page(html)
    words = " ".join(page.words)
    assert "Is it looking?" in words and "not without the image" in words
    for effect in found.effects:
        assert effect.variant in words and f"{100 * effect.changed.accuracy:.1f}" in words
        assert f"{100 * effect.interval.low:+.1f}".replace("-", "−") in words
    for letter in found.letters:
        assert f"{100 * letter.recall.share:.1f}" in words
    labels = [
        a["aria-label"]
        for tag, a in page.tags
        if tag == "svg" and a.get("class") == "strip" and "aria-label" in a
    ]
    assert sum("accuracy" in str(label) and "chance" in str(label) for label in labels) >= len(found.effects)
    stored = json.loads((out / "summary.json").read_text())
    stored["looking"]["data@letter-logprob"]["effects"] = [{"variant": "x"}]
    (out / "summary.json").write_text(json.dumps(stored))
    with pytest.raises(BadInput, match="looking cannot be read"):
        write_report([out], tmp_path / "page.html")


def test_views_change_what_the_model_sees_and_nothing_else(tiny_folder: Path, image_folder: Path) -> None:
    policy = load_policy(str(tiny_folder))
    path = str(image_folder / "1.png")
    as_it_is = policy.image_inputs(path)
    silent = policy.seeing(Noise(0)).image_inputs(path)
    assert silent.grid_thw == as_it_is.grid_thw and torch.equal(silent.pixel_values, as_it_is.pixel_values)
    noisy = policy.seeing(Noise(24)).image_inputs(path)
    assert noisy.grid_thw == as_it_is.grid_thw and not torch.equal(noisy.pixel_values, as_it_is.pixel_values)
    blank = policy.seeing(Blank()).image_inputs(path)
    assert len(blank.pixel_values.unique(dim=0)) == 1, "every patch the same"
    assert policy.image_inputs(path) is as_it_is and policy.seeing(None).image_inputs(path) is as_it_is
    asked = questions(image_folder)[1]
    with_image, without = (
        p.prompt_inputs(asked, TEMPLATES["think"]) for p in (policy, policy.seeing(Blank()))
    )
    assert torch.equal(with_image.input_ids, without.input_ids)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_the_tower_runs_once_per_image_and_the_tokens_are_the_same(
    image_folder: Path, tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny_model import write_tiny_model

    folder = str(write_tiny_model(tmp_path, family=family))
    asked, sampling, template = (
        questions(image_folder),
        Sampling(max_completion_tokens=12),
        TEMPLATES["think"],
    )
    plain, keeping = load_policy(folder), load_policy(folder)
    keeping.keep_features()
    seen: list[int] = []
    real_tower = features_module.image_features

    def counted(tower: Any, pixels: Any, grids: Sequence[Any]) -> Any:
        seen.append(len(grids))
        return real_tower(tower, pixels, grids)

    monkeypatch.setattr(features_module, "image_features", counted)
    for order in (asked, asked[::-1], asked[2:5]):
        expected = complete(plain, order, template, sampling)
        found = complete(keeping, order, template, sampling)
        assert [[c.token_ids for c in g] for g in found] == [[c.token_ids for c in g] for g in expected]
    assert sum(seen) == 4, "four images, whatever is asked about them"
    texts = [c for (c,) in complete(plain, asked, template, sampling)]
    texts = [replace(c, text="<think>x</think><answer>") for c in texts]
    letters = [choice_logprobs(p, asked, template, texts) for p in (plain, keeping)]
    for a, b in zip(*letters, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    assert sum(seen) == 4
    # Another view is another image; blanks of one size are one image.
    blank = keeping.seeing(Blank())
    blank_tokens = complete(blank, asked, template, sampling)
    assert sum(seen) == 8
    assert blank_tokens == complete(plain.seeing(Blank()), asked, template, sampling)
    assert complete(keeping, asked, template, sampling) == complete(plain, asked, template, sampling)


@pytest.mark.parametrize("template", ["think", "plain"])
def test_texts_of_choices_against_the_stock_model(
    tiny_folder: Path, image_folder: Path, template: str
) -> None:
    """Whole sequences through the stock forward, one choice at a time."""
    policy = load_policy(str(tiny_folder))
    form = question_only(TEMPLATES[template])
    asked = [replace(q, images=()) for q in questions(image_folder, 4)]
    tags = ("", "<|im_end|>") if template == "plain" else ("<answer>", "</answer>")
    found = text_logprobs(policy, asked, form, *tags)
    for question, sums in zip(asked, found, strict=True):
        prompt = policy.prompt_inputs(question, form)
        opening = policy.tokenizer(tags[0], add_special_tokens=False)["input_ids"]
        for choice, total in zip(question.choices, sums, strict=True):
            ids = policy.tokenizer(f"{tags[0]}{choice}{tags[1]}", add_special_tokens=False)["input_ids"]
            assert ids[: len(opening)] == opening
            with torch.no_grad():
                each = naive_logprobs(policy, prompt, ids, 1.0)
            assert total == pytest.approx(float(each[len(opening) :].sum()), abs=1e-3)
        per_byte = [t / len(c.encode()) for t, c in zip(sums, question.choices, strict=True)]
        assert read_text_logprobs(sums, question.choices).index == int(np.argmax(per_byte))
    assert read_text_logprobs((-4.0, -6.0), ("ab", "äöü")).index == 1, "per byte, not per letter"
    assert read_text_logprobs((-4.0, -6.0), ("ab", "abc")).index is None
