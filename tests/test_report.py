"""The page: self-contained, inert whatever the data says, and complete about its numbers."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from osler.answers import extract_answer, outcome_of
from osler.data.images import image_digest
from osler.errors import BadInput
from osler.evaluate.predictions import Header, PredictionWriter, question_digest
from osler.evaluate.summary import BlindBaseline, summarize, write_summary
from osler.records import LETTERS, Extraction, Modality, Prediction, Question, QuestionType
from osler.report.curves import MAX_POINTS, rolling_mean, thin, training_panels
from osler.report.examples import cards_for, segments, visible
from osler.report.page import write_report
from osler.report.runs import find_runs, read_run

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&\u202e"
VOID = {"meta", "img", "line", "circle", "path", "br", "input", "link", "use"}
# Attributes through which a page can load or run something.
LOADING = {"src", "href", "xlink:href", "data", "action", "formaction", "poster", "srcset", "background"}


class Page(HTMLParser):
    """Tags, attributes and text of a page, and whether tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == [], f"unclosed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def make_questions(folder: Path, n: int = 12, **changes: Any) -> list[Question]:
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for i in range(n):
        path = folder / f"image{i}.png"
        Image.new("L", (40, 30), 20 * i).save(path)
        made.append(
            Question(
                id=f"q{i}",
                text=f"What is shown in case {i}?",
                choices=("Kidney", "Liver", "Lung", "Spleen"),
                answer_index=i % 4,
                images=(str(path),),
                modality=Modality.CT if i % 2 else Modality.MRI,
                question_type=QuestionType.ANATOMY_IDENTIFICATION,
                dataset="set one",
            )
        )
    return [replace(q, **changes) for q in made]


def completion_of(question: Question, i: int) -> tuple[str, bool]:
    if i % 6 == 4:
        return "I cannot decide between B and C", False
    if i % 6 == 5:
        return "<think>on and on and", True
    letter = question.answer_letter if i % 2 else LETTERS[(question.answer_index + 1) % 4]
    return f"<think>It looks dark.</think><answer>{letter}</answer>", False


def write_evaluation(
    run: Path, questions: Sequence[Question], name: str = "test", texts: Sequence[str] | None = None
) -> None:
    header = Header(
        name=name,
        data="somewhere",
        model="phantom-base",
        model_digest="d" * 64,
        template="think",
        prompt_digest="p" * 16,
        settings={"temperature": 0.0},
    )
    rows = []
    for i, question in enumerate(questions):
        text, truncated = completion_of(question, i)
        if texts is not None:
            text, truncated = texts[i], False
        read = extract_answer(text, question.choices)
        prediction = Prediction(
            question_id=question.id,
            text=text,
            extraction=read,
            outcome=outcome_of(read, question.answer_index, truncated, text),
            answer_index=question.answer_index,
            num_choices=len(question.choices),
            image_digest=image_digest(question.images),
            modality=question.modality,
            question_type=question.question_type,
            dataset=question.dataset,
            truncated=truncated,
            num_tokens=len(text.split()),
        )
        if i == 3:
            prediction = replace(
                prediction, text="", outcome=None, extraction=Extraction(None, "none"), error="image gone"
            )
        rows.append((prediction, question_digest(question, prediction.image_digest)))
    with PredictionWriter(run / "predictions" / f"{name}.jsonl", header, print) as writer:
        writer.append(rows)
    (run / "questions").mkdir(exist_ok=True)
    lines = [{"id": q.id, "text": q.text, "choices": q.choices, "images": q.images} for q in questions]
    (run / f"questions/{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    blind = BlindBaseline(source="fitted on 9 questions of T", correct={q.id: False for q in questions})
    write_summary(run, summarize([p for p, _ in rows], header, blind))
    (run / "config.json").write_text(json.dumps({"kind": "evaluate", "model": "phantom-base"}))
    (run / "environment.json").write_text(json.dumps({"packages": {"torch": "2.13"}}))


def write_training(run: Path, steps: int = 30) -> None:
    run.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [{"step": 0, "progress/questions": 0.0, "eval/accuracy/mri": 0.25}]
    for step in range(1, steps + 1):
        rows.append(
            {
                "step": step,
                "progress/questions": 8.0 * step,
                "reward/total": 1 + step / steps,
                "reward/accuracy": step / steps,
                "reward/format": 1.0,
                "completion/length_mean": 40.0 - step / 3,
                "completion/truncated_frac": 0.1,
                "completion/unparsed_frac": 0.05,
                "group/zero_variance_frac": 0.2,
                "loss/kl": 0.001 * step,
                "loss/total": None,
                "ratio/clipped_frac": 0.0,
                "entropy/mean": 0.4,
            }
        )
        if step % 10 == 0:
            values = {"accuracy": 0.2, "accuracy_low": 0.1, "accuracy_high": 0.3}
            measured = {f"eval/{name}/mri": value + step / 100 for name, value in values.items()}
            rows.append({"step": step, "progress/questions": 8.0 * step, **measured})
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (run / "validation.json").write_text(
        json.dumps({"mri": {"n": 50, "chance": 0.25, "blind_accuracy": 0.31}})
    )
    (run / "config.json").write_text(json.dumps({"method": "grpo", "optim": {"lr": 1e-5}}))
    (run / "environment.json").write_text("{}")
    rollout = {
        "text": "<think>dark</think><answer>A</answer>",
        "tokens": 9,
        "finish_reason": "stop",
        "extraction": {"index": 0, "how": "exact", "span": [27, 28]},
        "reward": 2.0,
        "reward_breakdown": {"format": 1.0, "accuracy": 1.0},
        "advantage": 0.7,
    }
    group = {
        "question": "Which side?",
        "choices": ["left", "right"],
        "answer_index": 0,
        "rollouts": [rollout] * 2,
    }
    lines = [{"step": s, "question_id": f"q{s}", **group} for s in (1, 2, steps)]
    (run / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    questions = make_questions(tmp_path / "images")
    write_training(tmp_path / "study/grpo")
    write_evaluation(tmp_path / "study/grpo", questions)
    write_evaluation(tmp_path / "study/zero_shot", questions)
    return tmp_path / "study"


def read(path: Path) -> tuple[str, Page]:
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


def assert_self_contained(html: str, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "link", "form", "base", "audio", "video"}, (
            tag
        )
        for name, value in attributes.items():
            assert not name.startswith("on"), f"<{tag} {name}>"
            assert name != "style", f"<{tag} style>: the policy allows one style element only"
            if name in LOADING:
                assert value and value.startswith(("data:image/", "#")), f"<{tag} {name}={value}>"
            assert "://" not in (value or ""), f"<{tag} {name}={value}>"
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style and "url(" not in style.group(1) and "@import" not in style.group(1)
    digest = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    (policy,) = [a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a]
    assert policy and "default-src 'none'" in policy and f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy and "script-src" not in policy


def test_page_is_self_contained_and_says_its_numbers(study: Path, tmp_path: Path) -> None:
    facts = write_report([study], tmp_path / "page.html")
    html, page = read(tmp_path / "page.html")
    assert_self_contained(html, page)
    assert "://" not in html
    assert facts.runs == ("grpo", "zero_shot") and facts.test_sets == ("test",)
    run = read_run("grpo", study / "grpo")
    row = run.evaluations[0].summary.overall
    low, high = 100 * row.interval.low, 100 * row.interval.high
    for part in (
        f"{100 * row.accuracy:.1f}",
        f"{low:.1f}–{high:.1f}",
        "25.0",
        "Wilson by image",
        "fitted on 9 questions of T",
        "Not a medical device",
        "d" * 64,
        "question visits",
        "mri: blind baseline",
        "0.5 (0.4–0.6, n 50)",
        "0.31",
        "First group of rollouts, step 1",
        "Last group of rollouts, step 30",
        "image gone",
    ):
        assert part in page.text, part
    for title in (
        "Validation accuracy",
        "Reward",
        "Completion length",
        "KL to",
        "Entropy",
        "Clipped",
        "Zero-var",
    ):
        assert title in page.text
    assert "modality: ct" in page.text and "modality: mri" in page.text
    assert facts.num_bytes == len(html.encode())


def test_ids_are_unique_and_references_resolve(study: Path, tmp_path: Path) -> None:
    write_training(study / "zero_shot")
    write_report([study], tmp_path / "page.html")
    html, page = read(tmp_path / "page.html")
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    used = re.findall(r'url\(#([^)]+)\)|(?:xlink:)?href="#([^"]+)"', html)
    assert used and {a or b for a, b in used} <= set(ids)


def test_markup_in_data_is_inert_everywhere(tmp_path: Path) -> None:
    questions = make_questions(
        tmp_path / "images", text=EVIL, choices=(EVIL, "b", "c", "d" + EVIL), dataset="phantom " + EVIL
    )
    run = tmp_path / "study" / "<script>alert(2)<"  # a folder name is data too
    write_training(run)
    write_evaluation(
        run, questions, texts=[f"<think>{EVIL}</think><answer>A</answer>{EVIL}"] * len(questions)
    )
    config = {"method": EVIL, EVIL: {"x": EVIL}}
    (run / "config.json").write_text(json.dumps(config))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[3][f"reward/{EVIL}$"] = 1.0
    rows[0][f"eval/accuracy/{EVIL}$x$"] = 0.5
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    write_report([tmp_path / "study"], tmp_path / "page.html", title=EVIL)
    html, page = read(tmp_path / "page.html")
    assert_self_contained(html, page)
    assert "<script" not in html and "<img src=x" not in html and "onerror=alert(1)>" not in html
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in html
    assert "\u202e" not in html and "[U+202E]" in html
    assert "Phantom images are drawn by a program" in page.text


def test_lone_surrogates_and_control_characters_do_not_break_the_page(tmp_path: Path) -> None:
    questions = make_questions(tmp_path / "images")
    run = tmp_path / "run"
    write_evaluation(run, questions, texts=["\ud800 \x00\x1b[31m A <answer>B</answer>"] * len(questions))
    (run / "config.json").write_text('{"note": "\\ud800"}')
    write_report([run], tmp_path / "page.html")
    html, _ = read(tmp_path / "page.html")
    assert "\x00" not in html and "\x1b" not in html and "[U+D800]" in html


def test_examples_mix_outcomes_and_show_what_was_read(study: Path) -> None:
    runs = [read_run(label, path) for label, path in find_runs([study])]
    cards = cards_for("test", runs, 6)
    assert len(cards) == 6
    shown = {reply.outcome for card in cards for reply in card.replies}
    assert {"correct", "wrong", "unparsed", "truncated"} <= shown
    assert all(len(card.replies) == 2 and len(card.images) == 1 for card in cards)
    assert all(uri.startswith("data:image/") for card in cards for uri in card.images)
    assert all([c.is_gold for c in card.choices].count(True) == 1 for card in cards)
    assert [c.question for c in cards] == [c.question for c in cards_for("test", runs, 6)]
    assert len(cards_for("test", runs, 100)) == 12


def test_compared_letters_are_shown_where_nothing_was_written(tmp_path: Path) -> None:
    question = make_questions(tmp_path / "images")[0]
    run = tmp_path / "run"
    write_evaluation(run, [question], texts=[""])
    path = run / "predictions" / "test.jsonl"
    header, row = map(json.loads, path.read_text().splitlines())
    header["header"]["scorer"] = "letter-logprob"
    logprobs = [math.log(p) for p in (0.7, 0.15, 0.1, 0.05)]
    row |= {"choice_logprobs": logprobs, "outcome": "correct"}
    row["extraction"] = {"index": 0, "how": "letter-logprob", "span": None}
    path.write_text(f"{json.dumps(header)}\n{json.dumps(row)}\n")
    summary = json.loads((run / "summary.json").read_text())
    summary["evaluations"]["test"]["header"]["scorer"] = "letter-logprob"
    (run / "summary.json").write_text(json.dumps(summary))
    write_report([run], tmp_path / "page.html")
    text = read(tmp_path / "page.html")[1].text
    for part in ("A 70.0 %, B 15.0 %", "not calibrated", "not made to write", "think, letter-logprob"):
        assert part in text, part


def test_changed_or_missing_images_are_said_and_not_shown(study: Path, tmp_path: Path) -> None:
    for i in range(12):
        path = tmp_path / f"images/image{i}.png"
        if i % 2:
            path.unlink()
        else:
            Image.new("L", (5, 5), 200).save(path)
    runs = [read_run(label, path) for label, path in find_runs([study])]
    notes = [note for card in cards_for("test", runs, 12) for note in card.image_notes]
    assert len(notes) == 12
    assert {n.split(";")[0] for n in notes} == {
        "image 1 has changed since the question was asked",
        "image 1 could not be read",
    }


def test_rows_of_different_questions_are_marked(study: Path, tmp_path: Path) -> None:
    write_evaluation(study / "third", make_questions(tmp_path / "images", n=5))
    write_report([study], tmp_path / "page.html")
    assert "not asked the same questions" in read(tmp_path / "page.html")[1].text
    write_report([study / "grpo", study / "zero_shot"], tmp_path / "page.html")
    assert "not asked the same questions" not in read(tmp_path / "page.html")[1].text


def test_segments_keep_every_character() -> None:
    text = "so <think>a <b> c</think> x <answer>B</answer> tail"
    found = segments(text, (36, 37))
    assert "".join(s.text for s in found) == text
    assert [(s.kind, s.text) for s in found if s.kind != "answer"] == [
        ("thinking", "<think>a <b> c</think>"),
        ("read", "B"),
    ]
    assert segments("", None) == ()
    assert [s.kind for s in segments("abc", (1, 99))] == ["answer", "read"]


def test_visible_writes_out_what_cannot_be_seen() -> None:
    assert visible("a\u202eb\x1b\u200b\n\tc\u200d") == "a[U+202E]b[U+001B][U+200B]\n\tc\u200d"


def test_missing_and_damaged_files_are_named(tmp_path: Path, study: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        write_report([tmp_path / "nowhere"], tmp_path / "p.html")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="not a run folder"):
        write_report([tmp_path / "empty"], tmp_path / "p.html")
    run = study / "grpo"
    metrics = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text("{broken\n" + metrics)
    with pytest.raises(BadInput, match=r"metrics\.jsonl:1: not JSON"):
        write_report([run], tmp_path / "p.html")
    (run / "metrics.jsonl").write_text(metrics + '{"step": 31, "rew')
    (run / "environment.json").unlink()
    (run / "questions/test.jsonl").unlink()
    facts = write_report([run], tmp_path / "p.html")
    assert facts.num_cards == 0
    assert {n.partition(": ")[2] for n in facts.notes} == {
        "metrics.jsonl: dropped a torn last line",
        "environment.json is missing",
        "questions/test.jsonl is missing: no examples from this test set",
    }
    (run / "predictions/test.jsonl").rename(run / "predictions/other.jsonl")
    with pytest.raises(BadInput, match=r"predictions/test\.jsonl is missing"):
        write_report([run], tmp_path / "p.html")
    (run / "summary.json").unlink()
    facts = write_report([run], tmp_path / "p.html")
    assert any("evaluation not finished" in note for note in facts.notes)
    (run / "rollouts.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(BadInput, match="rollout group"):
        write_report([run], tmp_path / "p.html")


def test_runs_are_found_once_and_labels_differ(study: Path, tmp_path: Path) -> None:
    assert [label for label, _ in find_runs([study, study / "grpo"])] == ["grpo", "zero_shot"]
    write_training(tmp_path / "other/grpo")
    labels = [label for label, _ in find_runs([study / "grpo", tmp_path / "other/grpo"])]
    assert len(set(labels)) == 2 and all(label.endswith("grpo") for label in labels)


def test_the_page_is_the_same_twice(study: Path, tmp_path: Path) -> None:
    write_report([study], tmp_path / "a.html")
    write_report([study], tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_long_runs_stay_small() -> None:
    points = [(float(i), float(i % 7)) for i in range(100_000)]
    panels = training_panels({"reward/total": points, "loss/kl": [(1.0, 0.5)]})
    assert [p.title for p in panels] == ["Reward", "KL to the reference policy"]
    assert len(panels[0].svg) < 60_000
    assert panels[1].legend[0].first == panels[1].legend[0].last == "0.5"
    thinned = thin(points)
    assert len(thinned) == MAX_POINTS and thinned[0][0] < thinned[-1][0]
    assert sum(y for _, y in thinned) / MAX_POINTS == pytest.approx(sum(y for _, y in points) / 1e5)


def test_rolling_mean_by_hand() -> None:
    points = [(0.0, 1.0), (1.0, 2.0), (2.0, 6.0), (3.0, 0.0)]
    smoothed = rolling_mean(points, 3)
    assert [x for x, _ in smoothed] == [0.0, 1.0, 2.0, 3.0]
    assert [y for _, y in smoothed] == pytest.approx([1.5, 3.0, 8 / 3, 3.0])
    assert rolling_mean(points, 1) == points
