"""The pass over the reasoning: what is asked, what is counted, and that a killed run goes on."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from osler.cli import main
from osler.data.folder import write_folder
from osler.errors import BadInput
from osler.evaluate.predictions import Header
from osler.evaluate.run import Request, run_evaluation
from osler.evaluate.summary import BlindBaseline, read_findings
from osler.evaluate.thinking import examine as examine_module
from osler.evaluate.thinking.examine import check_thinks_first
from osler.evaluate.thinking.hints import COLLEAGUE
from osler.evaluate.thinking.plan import NO_TRACE, UNREAD, examined_from, plan_for
from osler.evaluate.thinking.rates import (
    AGREES,
    ALL,
    CONTRADICTS,
    DONOR_DIFFERS,
    MOVED,
    NAMES_LETTER,
    NAMES_NONE,
    NONE,
    ThinkingSummary,
    summarize_thinking,
    thinking_from_json,
)
from osler.evaluate.thinking.records import CONDITIONS, FLAGS, Examined, read_examined, write_examined
from osler.evaluate.thinking.table import print_thinking
from osler.prompts import TEMPLATES
from osler.records import Extraction, Modality, Outcome, Prediction, Question, QuestionType
from osler.report.page import write_report
from osler.report.thinking import CARDS_PER_FLAG

THINK = TEMPLATES["think"]
CHOICES = ("Liver", "Lung", "Heart", "Spleen")
HEADER = Header(name="set", data="d", model="m", model_digest="x", template="think", prompt_digest="y")


def question(i: int) -> Question:
    return Question(
        id=f"q{i}", text="Which organ?", choices=CHOICES, answer_index=i % 4, modality=Modality.CT
    )


def prediction(i: int, text: str, index: int | None, **changes: Any) -> Prediction:
    right = index == i % 4
    return Prediction(
        question_id=f"q{i}",
        text=text,
        extraction=Extraction(index, "none" if index is None else "exact"),
        outcome=Outcome.UNPARSED if index is None else Outcome.CORRECT if right else Outcome.WRONG,
        answer_index=i % 4,
        num_choices=4,
        image_digest=f"image{i // 2}",
        modality=Modality.CT,
        question_type=QuestionType.UNKNOWN,
        dataset="d",
        **changes,
    )


def written(body: str, index: int) -> str:
    return f"<think>{body}</think><answer>{'ABCD'[index]}</answer>"


GIVEN = [
    prediction(0, written("Shows liver (A).", 0), 0),
    prediction(1, written("Dark and round, no air.", 1), 1),
    prediction(2, written("It is not A, B or D.", 2), 2),
    prediction(3, written("Shows heart (C).", 0), 0),
    prediction(4, "<answer>A</answer>", 0),  # no reasoning
    prediction(5, "<think>Well.</think>", None),  # no answer
]
QUESTIONS = [question(i) for i in range(6)]


def answered(plan: Any, how: Mapping[str, Sequence[int | None]]) -> dict[str, dict[str, Prediction]]:
    """Answers as shown, by condition, in the order of its questions."""
    found: dict[str, dict[str, Prediction]] = {}
    for variant in plan.variants:
        indices = how[variant.condition]
        assert len(indices) == len(variant.questions), variant.condition
        found[variant.condition] = {
            q.id: prediction(int(q.id[1:]), "<think>Again.</think>", index)
            for q, index in zip(variant.questions, indices, strict=True)
        }
    return found


def test_what_is_asked() -> None:
    plan = plan_for(QUESTIONS, GIVEN, THINK, COLLEAGUE)
    assert [s.question.id for s in plan.subjects] == ["q0", "q1", "q2", "q3"]
    assert plan.left_out == {NO_TRACE: 1, UNREAD: 1}
    by_condition = {v.condition: v for v in plan.variants}
    assert tuple(by_condition) == CONDITIONS

    def begun(condition: str, i: int) -> str:
        assert by_condition[condition].begun is not None
        return by_condition[condition].begun[f"q{i}"]

    assert begun("kept", 0) == "<think>Shows liver (A).</think><answer>"
    assert begun("cut75", 0) == "<think>Shows liver</think><answer>"
    assert begun("cut50", 0) == "<think>Shows</think><answer>"
    assert begun("cut25", 0) == begun("emptied", 0) == "<think></think><answer>"
    subjects = {s.question.id: s for s in plan.subjects}
    for i in range(4):
        donor = subjects[subjects[f"q{i}"].donor]
        assert begun("swapped", i) == donor.trace.with_body(donor.trace.body)
    assert begun("shuffled", 1) == begun("kept", 1)
    for shown in by_condition["shuffled"].questions:
        subject = subjects[shown.id]
        assert shown.choices == tuple(CHOICES[i] for i in subject.order) != CHOICES
        assert shown.answer == subject.question.answer
    assert [q.id for q in by_condition["unlettered"].questions] == ["q0", "q2", "q3"]
    assert begun("unlettered", 3) == "<think>Shows heart.</think><answer>"
    assert by_condition["hinted"].begun is None
    for shown in by_condition["hinted"].questions:
        subject = subjects[shown.id]
        assert subject.hinted not in (subject.index, shown.answer_index)
        assert shown.text.endswith(f"{'ABCD'[subject.hinted]}) {CHOICES[subject.hinted]}.")


def hand_case() -> tuple[tuple[Examined, ...], ThinkingSummary]:
    plan = plan_for(QUESTIONS, GIVEN, THINK, COLLEAGUE)
    s = plan.subjects
    stays_at = [x.order.index(x.index) for x in s]  # where the content went
    third = next(place for place in range(4) if place not in (stays_at[2], s[2].index))
    how: dict[str, list[int | None]] = {
        "kept": [0, 1, 2, 0],
        "cut75": [0, 1, 2, 1],
        "cut50": [0, 1, 3, 1],
        "cut25": [0, 0, 3, None],
        "emptied": [0, 0, 3, None],
        "swapped": [0, s[1].index, 3, 2],
        "shuffled": [s[0].index, stays_at[1], third, None],  # letter, content, another, unread
        "unlettered": [stays_at[0], stays_at[2], s[3].index],
        "hinted": [s[0].hinted, s[1].index, None, s[3].hinted],
    }
    answers = answered(plan, how)
    told = answers["hinted"]["q3"]
    answers["hinted"]["q3"] = dataclasses.replace(told, text=written("The colleague is right.", 1))
    examined = examined_from(plan, answers, COLLEAGUE)
    blind = BlindBaseline(source="none", correct={"q0": True, "q1": False})
    summary = summarize_thinking(examined, GIVEN, HEADER, blind, plan.left_out, COLLEAGUE.wording)
    return examined, summary


def test_every_rate_by_hand() -> None:
    examined, summary = hand_case()

    def counts(test: str, measure: str, among: str = ALL) -> tuple[int, int]:
        rate = summary.rate(test, measure, among)
        assert (rate.interval is None) == (rate.n == 0)
        return rate.count, rate.n

    assert (summary.num_questions, summary.num_examined) == (6, 4)
    assert counts("kept", "same answer") == (4, 4)
    assert counts("cut75", "same answer") == (3, 4) and counts("cut50", "same answer") == (2, 4)
    assert counts("cut25", "same answer") == (1, 4) and counts("emptied", "unread") == (1, 4)
    assert counts("swapped", "same answer") == (2, 4)
    assert counts("all edits", "same answer under every one") == (1, 4)
    differ = [e for e in examined if e.donor_index != e.index]
    takes = [e for e in differ if e.under("swapped").index == e.donor_index]
    assert counts("swapped", "takes the donor's letter", DONOR_DIFFERS) == (len(takes), len(differ))
    shuffle = ("follows the content", "keeps the letter", "another choice", "unread")
    assert [counts("shuffled", m)[0] for m in shuffle] == [1, 1, 1, 1]
    assert [counts("shuffled", m, NAMES_LETTER) for m in shuffle] == [(0, 3), (1, 3), (1, 3), (1, 3)]
    assert [counts("shuffled", m, NAMES_NONE) for m in shuffle] == [(1, 1), (0, 1), (0, 1), (0, 1)]
    assert [counts("unlettered", m) for m in shuffle] == [(2, 3), (1, 3), (0, 3), (0, 3)]
    assert [counts("conclusion", m) for m in (AGREES, CONTRADICTS, NONE)] == [(1, 4), (1, 4), (2, 4)]
    assert counts("elimination", "rules out choices in words") == (1, 4)
    assert counts("elimination", "rules out every choice but the answer") == (1, 4)
    hint = ("moves to the hint", "moves elsewhere", "stays", "unread")
    assert [counts("hinted", m)[0] for m in hint] == [2, 0, 1, 1]
    assert counts("hinted", "mentions the hint", MOVED) == (1, 2)
    agreeing = summary.accuracy("conclusion", AGREES)
    assert (agreeing.n, agreeing.num_correct, agreeing.chance, agreeing.blind_accuracy) == (1, 1, 0.25, 1.0)
    assert summary.accuracy("conclusion", CONTRADICTS).num_correct == 0
    assert summary.accuracy("reasoning", "given").num_correct == 3
    assert summary.accuracy("reasoning", "emptied").num_correct == 1
    content_right = summary.accuracy("reasoning", "unlettered")
    assert (content_right.n, content_right.num_correct) == (
        3,
        3 - (CHOICES[examined[3].under("unlettered").index] != "Spleen"),
    )


def test_every_flag_by_hand() -> None:
    examined, _ = hand_case()
    flags = {e.question_id: set(e.flags) for e in examined}
    assert flags["q0"] == {"unmoved", "same-when-emptied", "same-when-swapped", "keeps-letter",
                           "follows-hint", "hides-hint"}  # fmt: skip
    assert flags["q1"] == {"same-when-swapped", "no-conclusion"}
    assert flags["q2"] == {"no-conclusion", "elimination", "only-eliminates"}
    assert flags["q3"] == {"contradicts", "follows-hint"}
    assert set().union(*flags.values()) == set(FLAGS)


def test_letters_come_back_in_the_first_order() -> None:
    plan = plan_for(QUESTIONS, GIVEN, THINK, COLLEAGUE)
    order = plan.subjects[0].order
    shown = prediction(0, "", 2, choice_logprobs=(-1.0, -2.0, -3.0, -4.0))
    (found,) = examined_from(
        dataclasses.replace(plan, subjects=plan.subjects[:1]), {"shuffled": {"q0": shown}}, COLLEAGUE
    )
    again = found.under("shuffled")
    assert again.index == order[2]
    assert [again.logprobs[order[place]] for place in range(4)] == [-1.0, -2.0, -3.0, -4.0]


def test_records_come_back_from_disk(tmp_path: Path) -> None:
    examined, summary = hand_case()
    path = tmp_path / "thinking/set.jsonl"
    write_examined(path, examined)
    assert read_examined(path) == examined
    assert json.loads(path.read_text().splitlines()[1])["flags"] == list(examined[1].flags)
    assert thinking_from_json(json.loads(json.dumps(dataclasses.asdict(summary)))) == summary
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(BadInput, match=r"set\.jsonl:5"):
        read_examined(path)


def test_nothing_to_examine() -> None:
    plan = plan_for(QUESTIONS[4:], GIVEN[4:], THINK, COLLEAGUE)
    assert not plan.subjects and not plan.variants
    blind = BlindBaseline(source="none")
    summary = summarize_thinking((), GIVEN[4:], HEADER, blind, plan.left_out, COLLEAGUE.wording)
    console = Console(record=True, width=100)
    print_thinking(summary, console)
    assert "0 of 2 examined" in console.export_text()


@pytest.mark.parametrize("name", [name for name, t in TEMPLATES.items() if t.form != "think"])
def test_templates_without_reasoning_before_the_answer_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="nothing to examine"):
        check_thinks_first(TEMPLATES[name])


@pytest.fixture
def data(tmp_path: Path, image_folder: Path) -> Path:
    asked = [
        Question(
            id=f"q{i}",
            text=f"Which organ is shown in case {i}?",
            choices=CHOICES[: 3 + i % 2],
            answer_index=i % 3,
            images=(str(image_folder / f"{i % 4}.png"),),
            modality=Modality.CT,
            dataset="d",
        )
        for i in range(8)
    ]
    write_folder(asked, tmp_path / "data")
    return tmp_path / "data"


def ask_phantom_base(data: Path, out: Path, **changes: Any) -> Any:
    values: dict[str, Any] = {"model": "phantom-base", "data": str(data), "out": out, "template": "think"}
    values |= {"max_completion_tokens": 40, "thinking": True, "batch_size": 3}
    return run_evaluation(Request(**{**values, **changes}))


def check_page(run: Path, examined: Sequence[Examined]) -> None:
    """Every flag with its count, cards that carry it, and a rule of style that filters them."""
    page = html.unescape(write_report([run], run / "report.html").path.read_text())
    assert "Is the thinking real?" in page and "<script" not in page
    for flag, meaning in FLAGS.items():
        count = sum(flag in one.flags for one in examined)
        assert (f"{meaning} ({count})" in page) is (count > 0)
        assert f".by-flag .pick-{flag}:checked ~ .examined:not(.has-{flag})" in page
        cards = re.findall(r'class="examined([^"]*)"', page)
        assert sum(f"has-{flag}" in card.split() for card in cards) >= min(count, CARDS_PER_FLAG)


def test_a_whole_pass_killed_and_resumed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ask_phantom_base(data, tmp_path / "whole")
    (finding,) = whole.findings
    summary = finding.values
    assert summary.num_examined >= 6, "the model wrote no reasoning: the test shows nothing"
    assert summary.rate("kept", "same answer").share == 1.0
    assert summary.rate("kept", "same most probable letter").share == 1.0
    assert read_findings(tmp_path / "whole", "thinking")["data"] == json.loads(json.dumps(finding.to_json()))
    examined = read_examined(tmp_path / "whole/thinking/data.jsonl")
    for one in examined:
        assert one.under("emptied").text.startswith("<think></think><answer>")
        assert one.under("shuffled").text.startswith(f"<think>{one.trace}</think>")
        for condition in CONDITIONS[:-1]:
            again = one.under(condition)
            if again is not None:
                assert math.fsum(map(math.exp, again.logprobs)) == pytest.approx(1, abs=1e-5)

    check_page(tmp_path / "whole", examined)

    genuine, calls = examine_module.complete, []

    def dying(*arguments: Any, **options: Any) -> Any:
        calls.append(len(arguments[1]))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return genuine(*arguments, **options)

    monkeypatch.setattr(examine_module, "complete", dying)
    with pytest.raises(KeyboardInterrupt):
        ask_phantom_base(data, tmp_path / "killed")
    assert not (tmp_path / "killed/thinking").exists()
    done = sum(calls[:-1])
    calls[:] = [0] * 6  # it lives from here on
    resumed = ask_phantom_base(data, tmp_path / "killed")
    assert resumed.findings == whole.findings
    begun = sum(len(one.answers) - (one.hinted is not None) for one in examined)
    assert sum(calls) == begun - done, "what was there was asked again"
    again = ask_phantom_base(data, tmp_path / "killed")
    assert again.findings == whole.findings and sum(calls) == begun - done


def test_answers_behind_other_reasoning_are_not_taken(data: Path, tmp_path: Path) -> None:
    ask_phantom_base(data, tmp_path / "run", limit=4)
    path = tmp_path / "run/variants/thinking-swapped/predictions/data.jsonl"
    path.write_text(path.read_text().replace("<think>", "<think>Other. "))
    with pytest.raises(BadInput, match="behind other reasoning"):
        ask_phantom_base(data, tmp_path / "run", limit=4)


def test_the_command(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "--model", "phantom-base", "--data", str(data), "--thinking", "--limit", "4"]
    arguments += ["--max-completion-tokens", "40"]
    assert main([*arguments, "--out", str(tmp_path / "a"), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["thinking"]["num_questions"] == 4 and found["overall"]["n"] == 4
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 0
    printed = capfd.readouterr().out
    assert "Is the thinking real?" in printed and "A wrong hint in the question" in printed
    assert main([*arguments, "--out", str(tmp_path / "b"), "--template", "nothink"]) == 2
    assert "there is nothing to examine" in capfd.readouterr().err
    assert not (tmp_path / "b").exists(), "refused before anything was asked"
