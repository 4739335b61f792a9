"""`osler ask`: what is said, what is never said, and a real (random) model end to end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from osler.ask import Answer, ask, parse_choices, print_answer, read_answer
from osler.cli import main
from osler.errors import BadInput
from osler.evaluate.printed import printable
from osler.policy.load import load_policy
from osler.prompts import TEMPLATES
from osler.records import Completion, Question
from osler.rollout.sampling import Sampling

QUESTION = Question(id="ask", text="Which organ?", choices=("Kidney", "[red]Liver", "Lung"), answer_index=0)


def answer(text: str, finish: str = "stop", logprobs: tuple[float, ...] | None = None) -> Answer:
    completion = Completion(text=text, token_ids=(1,), sampled_logprobs=(0.0,), finish_reason=finish)
    return read_answer(QUESTION, TEMPLATES["think"], completion, logprobs)


def printed(one: Answer, capsys: pytest.CaptureFixture[str]) -> str:
    print_answer(one, Console(width=80, force_terminal=False))
    return " ".join(capsys.readouterr().out.split())


def test_a_read_answer(capsys: pytest.CaptureFixture[str]) -> None:
    logprobs = (math.log(0.2), math.log(0.7), math.log(0.1))
    one = answer("<think>Bright and lobed.</think><answer>B</answer>", logprobs=logprobs)
    assert (one.letter, one.choice, one.how, one.status) == ("B", "[red]Liver", "exact", "answered")
    assert one.thinking == "Bright and lobed."
    assert one.option_probabilities == pytest.approx((0.2, 0.7, 0.1))
    text = printed(one, capsys)
    for part in ("Bright and lobed.", "B) [red]Liver", "read: exact", "70.0 %", "20.0 %", "not calibrated"):
        assert part in text, part
    assert "not a medical device" in text
    assert "confiden" not in text.lower() and "certain" not in text.lower()


def test_nothing_read_shows_the_completion_and_no_choice(capsys: pytest.CaptureFixture[str]) -> None:
    one = answer("It may be A or B.")
    assert (one.letter, one.choice, one.status) == (None, None, "unparsed")
    text = printed(one, capsys)
    assert "no answer could be read (unparsed)" in text and "It may be A or B." in text
    assert "no probabilities" in text and "not a medical device" in text


@pytest.mark.parametrize(
    ("text", "finish", "status"),
    [
        ("<think>and then and then", "length", "truncated"),
        ("I'm sorry, but I cannot provide a diagnosis.", "stop", "refused"),
        ("", "stop", "unparsed"),
        (" \n ", "stop", "unparsed"),
    ],
)
def test_status_of_what_could_not_be_read(
    text: str, finish: str, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = answer(text, finish)
    assert one.status == status and one.truncated == (finish == "length")
    shown = printed(one, capsys)
    assert f"({status})" in shown
    assert ("cut off" in shown) == (finish == "length")
    if not text.strip():
        assert "nothing but white space" in shown


def test_status_does_not_depend_on_the_unknown_right_answer() -> None:
    assert answer("<answer>A</answer>").status == answer("<answer>C</answer>").status == "answered"


def test_json_carries_the_caveats() -> None:
    values = json.loads(json.dumps(answer("<answer>A</answer>", logprobs=(0.0, -9.0, -9.0)).to_json()))
    assert values["letter"] == "A" and len(values["option_probabilities"]) == 3
    assert "not calibrated" in values["probabilities_are"] and "not a medical device" in values["use"]


def test_terminal_escapes_in_a_completion_are_inert(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(answer("<think>\x1b]0;owned\x07 [bold]x</think><answer>A</answer>"), capsys)
    assert "\x1b" not in shown and "\x07" not in shown and "[bold]x" in shown
    assert printable("a\tb\u202ec") == "a\tb[U+202E]c"


def test_choices_of_the_command_line() -> None:
    assert parse_choices(" a ;b; c;") == ("a", "b", "c")
    for text, message in [
        ("a", "1 choices"),
        ("", "choices"),
        ("a;;b", "choice 2 is empty"),
        ("a; a", "given twice"),
        (";".join(map(str, range(27))), "27 choices"),
    ]:
        with pytest.raises(BadInput, match=message):
            parse_choices(text)


def test_a_real_model_answers_or_says_that_it_did_not(tiny_folder: Path, image_folder: Path) -> None:
    policy = load_policy(str(tiny_folder))
    image = str(image_folder / "1.png")
    sampling = Sampling(max_completion_tokens=8)
    # A plain template is answered from the first token on, so its probabilities always exist.
    one = ask(policy, image, "Which organ?", ("Kidney", "Liver", "Lung"), TEMPLATES["plain"], sampling)
    assert one.option_probabilities is not None
    assert sum(one.option_probabilities) == pytest.approx(1.0)
    assert len(one.option_probabilities) == 3
    again = ask(policy, image, "Which organ?", ("Kidney", "Liver", "Lung"), TEMPLATES["plain"], sampling)
    assert again == one
    with pytest.raises(BadInput, match="question is empty"):
        ask(policy, image, "  ", ("a", "b"), TEMPLATES["plain"])
    with pytest.raises(BadInput, match=r"nowhere\.png"):
        ask(policy, "nowhere.png", "Which?", ("a", "b"), TEMPLATES["plain"])


def test_reading_and_writing_weights_draws_no_bar(
    tiny_folder: Path,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    logging.enable_progress_bar()
    arguments = ["ask", str(tiny_folder), str(image_folder / "1.png"), "Which?", "--choices", "a; b"]
    assert main([*arguments, "--max-completion-tokens", "2"]) == 0
    load_policy(str(tiny_folder)).model.save_pretrained(tmp_path)
    out, err = capfd.readouterr()
    assert "Options" in out and err == ""
    assert not are_progress_bars_disabled()  # those of downloads
