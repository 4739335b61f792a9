"""A model behind a server: the official wire format, and whatever a server can do wrong."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from PIL import Image, ImageChops, PngImagePlugin
from pydantic import TypeAdapter

from chat_server import ChatServer, Handler, answer, completion, drip, hang_up, running, stall, status
from osler.cli import main
from osler.data.folder import write_folder
from osler.data.images import fit_pixels, open_image
from osler.errors import BadInput
from osler.evaluate.chat_wire import Answered, Useless, read_response, request_body
from osler.evaluate.endpoint import FAULTS_IN_A_ROW, Endpoint, ServerGone, Timing
from osler.evaluate.predictions import read_predictions
from osler.evaluate.retries import Fault, back_off_seconds, parse_retry_after
from osler.evaluate.run import Request, run_evaluation
from osler.evaluate.server import Address, EndpointOptions
from osler.prompts import TEMPLATES
from osler.records import Outcome, Prediction, Question
from osler.rollout.sampling import Sampling

THINK = TEMPLATES["think"]
BOUNDS = {"min_pixels": 3136, "max_pixels": 401408}
SECRET = "sk-secret-0123"


@pytest.fixture
def questions(tmp_path: Path) -> list[Question]:
    made = []
    for i in range(12):
        folder = tmp_path / "images" / "malignant"  # a path that gives the answer away
        folder.mkdir(parents=True, exist_ok=True)
        hidden = PngImagePlugin.PngInfo()
        hidden.add_text("PatientName", "Doe^Jane")
        noise = random.Random(i).randbytes(60 * 70 * 3)
        Image.frombytes("RGB", (60, 70), noise).save(folder / f"{i}.png", pnginfo=hidden)
        letter = "ABCD"[i % 4]
        made.append(
            Question(
                id=f"q{i}",
                text=f"Case {i}: say {letter}",
                choices=("left", "right", "both", "none"),
                answer_index=i % 4 if i < 8 else (i + 1) % 4,  # eight of twelve will be right
                images=(str(folder / f"{i}.png"),),
            )
        )
    return made


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.seconds, self.slept = 1000.0, list[float]()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)

    def timing(self) -> Timing:
        clock = lambda: self.seconds  # noqa: E731
        return Timing(sleep=self.sleep, monotonic=clock, now=clock, rng=random.Random(0))


def endpoint(server: ChatServer, fake: FakeTime | None = None, **options: Any) -> Endpoint:
    address = Address(f"http://127.0.0.1:{server.server_port}/v1", "m")
    fake = fake or FakeTime()
    return Endpoint(address, EndpointOptions(**options), timing=fake.timing(), **BOUNDS)


def ask(model: Endpoint, questions: Sequence[Question], **sampling: Any) -> dict[str, Any]:
    found = {}
    for some in model.replies(questions, THINK, Sampling(**sampling), "osler"):
        found.update({q.id: reply for q, reply in some})
    return found


def indices(replies: dict[str, Any]) -> dict[str, int | None]:
    return {i: reply.extraction.index for i, reply in replies.items()}


def said(questions: Sequence[Question]) -> dict[str, int | None]:
    return {q.id: i % 4 for i, q in enumerate(questions)}


# --- the wire format


def test_a_request_is_what_the_official_client_sends(questions: list[Question]) -> None:
    sampling = Sampling(max_completion_tokens=48, temperature=0.5, seed=3)
    body = request_body("m", questions[0], THINK, sampling, **BOUNDS)
    known = TypeAdapter(CompletionCreateParamsNonStreaming)
    assert known.validate_python(body, strict=True) and set(body) <= set(known.json_schema()["properties"])
    with running() as server:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        with openai.OpenAI(base_url=url, api_key=SECRET, max_retries=0) as client:
            theirs = client.chat.completions.create(**body)
        address = Address(url, "m")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OSLER_API_KEY", SECRET)
            model = Endpoint(address, EndpointOptions(), **BOUNDS)
            ours = ask(model, questions[:1], max_completion_tokens=48, temperature=0.5, seed=3)["q0"]
    (their_path, their_headers, their_body), (path, headers, sent) = server.requests
    assert (path, sent) == (their_path, their_body)
    for name in ("authorization", "content-type"):
        assert Headers(headers)[name] == Headers(their_headers)[name]
    assert ours.completion.text == theirs.choices[0].message.content
    assert ours.completion.num_tokens == theirs.usage.completion_tokens == 7  # type: ignore[union-attr]


class Headers(dict[str, str]):
    def __init__(self, given: dict[str, str]) -> None:
        super().__init__({name.lower(): value for name, value in given.items()})


def test_images_travel_as_pixels_and_nothing_else(questions: list[Question]) -> None:
    body = request_body("m", questions[5], THINK, Sampling(), **BOUNDS)
    image_part, text_part = body["messages"][0]["content"]
    head, _, data = image_part["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64" and text_part["text"] == THINK.user_text(questions[5])
    decoded = base64.b64decode(data, validate=True)
    sent = Image.open(io.BytesIO(decoded))
    assert ImageChops.difference(sent, open_image(questions[5].images[0])).getbbox() is None
    assert b"Doe" not in decoded and sent.info == {}
    assert "malignant" not in json.dumps(body) and '"q5"' not in json.dumps(body)
    small = request_body("m", questions[5], THINK, Sampling(), min_pixels=1, max_pixels=1000)
    data = small["messages"][0]["content"][0]["image_url"]["url"].partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == fit_pixels(60, 70, 1, 1000)


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 5000), st.integers(5000, 400000))
def test_pixel_bounds_hold(width: int, height: int, low: int, high: int) -> None:
    w, h = fit_pixels(width, height, low, high)
    if width * height > high:
        assert w * h <= high or 1 in (w, h)
    elif width * height < low:
        assert w * h >= low
    else:
        assert (w, h) == (width, height)


def test_sampling_seeds_depend_on_run_and_question(questions: list[Question]) -> None:
    def seed(question: Question, **sampling: Any) -> Any:
        return request_body("m", question, THINK, Sampling(**sampling), **BOUNDS).get("seed")

    a, b = questions[:2]
    assert seed(a) is None  # greedy
    drawn = {seed(a, temperature=1.0), seed(b, temperature=1.0), seed(a, temperature=1.0, seed=1)}
    assert len(drawn) == 3 and seed(a, temperature=1.0) in drawn and all(0 <= s < 2**31 for s in drawn)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "finish_reason", "usage", "error", "code"]),
            inner,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([200, 400, 403, 429, 500]), JSON | st.just([]))
def test_no_answer_is_made_of_anything_else(code: int, payload: Any) -> None:
    found = read_response(code, {}, json.dumps(payload).encode(), 10, 0.0)
    assert isinstance(found, Fault)


def test_damaged_answers() -> None:
    for content in (b"", b"<html>", b"\xff\xfe", b"[" * 100_000):
        found = read_response(200, {"content-type": "text/html"}, content, 10, 0.0)
        assert isinstance(found, Fault) and found.again
    whole = completion("<answer>A</answer>")
    for damage in ({"choices": []}, {"choices": [{"message": {"content": "A"}}]}, {"choices": None}):
        assert isinstance(read_response(200, {}, json.dumps(whole | damage).encode(), 10, 0.0), Fault)
    odd = completion("A", finish_reason="tool_calls")
    assert isinstance(read_response(200, {}, json.dumps(odd).encode(), 10, 0.0), Fault)


def test_finish_reasons_and_counts() -> None:
    def read(**changes: Any) -> Answered:
        found = read_response(200, {}, json.dumps(completion("Case", **changes)).encode(), 10, 0.0)
        assert isinstance(found, Answered)
        return found

    assert not read().completion.truncated and read(finish_reason="length").completion.truncated
    assert read(finish_reason="content_filter").completion.refused
    refusal = read(refusal="I cannot help with that.").completion
    assert refusal.refused and refusal.text == "I cannot help with that."
    assert read(usage=None).completion.num_tokens == 0
    long = {"prompt_tokens": 5, "completion_tokens": 900, "total_tokens": 905}
    with pytest.raises(Useless, match="--limit-parameter"):
        read(usage=long)


# --- waiting


def test_retry_after_header() -> None:
    now = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC).timestamp()
    assert parse_retry_after("Sun, 01 Mar 2026 12:02:00 GMT", now) == 120.0
    assert parse_retry_after("Sun, 01 Mar 2026 11:00:00 GMT", now) == 0.0
    assert parse_retry_after("7", now) == 7.0
    assert [parse_retry_after(v, now) for v in (None, "", "soon", "-3", "１２")] == [None] * 5


def test_back_off_doubles_within_its_jitter_and_ends_at_a_minute() -> None:
    rng = random.Random(0)
    for attempt in range(1, 12):
        longest = min(2.0 ** (attempt - 1), 60.0)
        drawn = [back_off_seconds(attempt, rng) for _ in range(200)]
        assert longest / 2 <= min(drawn) < 0.55 * longest and 0.95 * longest < max(drawn) <= longest


# --- faults


def test_a_rate_limit_holds_every_request_back(questions: list[Question]) -> None:
    fake = FakeTime()
    with running() as server:
        server.faults.extend([status(429, {"error": {"message": "slow"}}, retry_after="30")])
        seen: list[float] = []
        server.behaviour = lambda handler: (seen.append(fake.seconds), answer(handler))[-1]
        replies = ask(endpoint(server, fake, concurrency=1), questions)
    assert indices(replies) == said(questions)
    assert len(server.requests) == 13 and min(seen) >= 1030.0


@pytest.mark.parametrize(
    "fault",
    [
        status(429), status(500, {"error": "boom"}), status(503, retry_after="1"), status(502, "<html>"),
        status(200, "<html>log in</html>"), status(200, "{"), hang_up,
    ],
)  # fmt: skip
def test_a_passing_fault_costs_a_request_and_no_answer(questions: list[Question], fault: Any) -> None:
    with running() as server:
        server.faults.extend([fault] * 5)
        model = endpoint(server)
        replies = ask(model, questions)
    assert indices(replies) == said(questions)
    assert len(server.requests) == 17 and sum(model.retried.values()) == 5
    assert model.served == {"served-model fp_1": 12}


@pytest.mark.parametrize("fault", [stall, drip])
def test_a_stalled_connection_is_given_up(questions: list[Question], fault: Any) -> None:
    with running() as server:
        server.faults.extend([fault] * 2)
        replies = ask(endpoint(server, timeout_seconds=1.0), questions)
    assert indices(replies) == said(questions) and len(server.requests) >= 14


def test_never_more_requests_at_a_time_than_allowed(questions: list[Question]) -> None:
    with running() as server:
        ask(endpoint(server, concurrency=3), questions)
    assert 1 <= server.most_active <= 3


def test_what_stays_without_an_answer_is_an_error(questions: list[Question]) -> None:
    def too_long(handler: Handler) -> None:
        if "Case 3" in handler.text:
            handler.reply(
                400, {"error": {"message": f"too long, {SECRET}", "code": "context_length_exceeded"}}
            )
        elif "Case 4" in handler.text:
            handler.reply(500, {"error": {"message": "out of memory"}})
        else:
            answer(handler)

    with running() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OSLER_API_KEY", SECRET)
        server.behaviour = too_long
        replies = ask(endpoint(server, attempts=3), questions)
    assert replies["q3"].error == "endpoint: HTTP 400: too long, [key]"
    assert replies["q4"].error == "endpoint: HTTP 500: out of memory (3 attempts)"
    assert replies["q3"].completion is None and replies["q3"].extraction.index is None
    assert sum("Case 3" in str(r[2]) for r in server.requests) == 1
    assert sum(not r.error for r in replies.values()) == 10


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(401, {"error": {"message": f"Incorrect API key provided: {SECRET}"}}), "key is not accepted"),
        (status(404, {"error": {"message": "no model m"}}), "no such model"),
        (status(429, {"error": {"message": "pay", "code": "insufficient_quota"}}), "quota is used up"),
        (status(429, retry_after="86400"), "come back in 86400 s"),
    ],
)
def test_what_no_question_can_mend_ends_the_run(
    questions: list[Question], fault: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSLER_API_KEY", SECRET)
    with running() as server:
        server.behaviour = fault
        with pytest.raises(Useless, match=message) as caught:
            ask(endpoint(server, concurrency=2), questions)
    assert len(server.requests) <= 2 and SECRET not in str(caught.value)


# --- a whole evaluation


def request(folder: Path, out: Path, server_port: int, **changes: Any) -> Request:
    values = {"model": f"openai:http://127.0.0.1:{server_port}/v1#m", "data": str(folder), "out": out}
    return Request(**{**values, "template": "think", **changes})


@pytest.fixture
def data(tmp_path: Path, questions: list[Question]) -> Path:
    write_folder(questions, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr("osler.evaluate.endpoint.Timing", fake.timing)
    return fake


def stored(out: Path) -> dict[str, Prediction]:
    return {p.question_id: p for p in read_predictions(out / "predictions/data.jsonl").predictions}


def test_a_killed_server_loses_and_invents_nothing(data: Path, tmp_path: Path, no_waiting: FakeTime) -> None:
    out, options = tmp_path / "run", EndpointOptions(concurrency=1, attempts=2)
    with running() as server:
        port = server.server_port

        def three_then_nothing(handler: Handler) -> None:
            if len(server.requests) > 3:
                hang_up(handler)
            else:
                answer(handler)

        server.behaviour = three_then_nothing
        with pytest.raises(ServerGone, match=f"{FAULTS_IN_A_ROW} questions in a row"):
            run_evaluation(request(data, out, port, endpoint=options))
    first = stored(out)
    kept = {i: p for i, p in first.items() if not p.error}
    assert len(kept) == 3 and not (out / "summary.json").exists()
    assert all(p.outcome is None and p.text == "" for p in first.values() if p.error)
    with pytest.raises(ServerGone):  # nobody listens there now
        run_evaluation(request(data, out, port, endpoint=options))
    with running(port) as server:
        found = run_evaluation(request(data, out, port, endpoint=options)).summary
        assert len(server.requests) == 9  # nothing is asked twice
        whole = run_evaluation(request(data, tmp_path / "whole", port)).summary
    second = stored(out)
    assert {i: second[i] for i in kept} == kept
    assert second == stored(tmp_path / "whole") and found.overall == whole.overall
    assert found.overall.n == 12 and found.overall.num_correct == 8 and not found.errors


def test_how_many_questions_stay_open_is_recorded(data: Path, tmp_path: Path, no_waiting: FakeTime) -> None:
    def not_this_one(handler: Handler) -> None:
        status(500)(handler) if "Case 7:" in handler.text else answer(handler)

    with running() as server:
        asked = request(data, tmp_path / "run", server.server_port)
        for behaviour, unanswered in ((not_this_one, 1), (answer, 0)):
            server.behaviour = behaviour
            found = run_evaluation(asked).summary
            facts = json.loads((tmp_path / "run/endpoint/data.json").read_text())
            assert (facts["answers"], facts["unanswered"]) == (12 - unanswered, unanswered)
            assert len(found.errors) == unanswered and found.overall.n == 12


def test_every_answer_is_on_disk_before_the_next_is_there(data: Path, tmp_path: Path) -> None:
    lines: list[int] = []
    path = tmp_path / "run/predictions/data.jsonl"
    with running() as server:

        def count_then_answer(handler: Handler) -> None:
            lines.append(len(path.read_text().splitlines()) - 1)
            answer(handler)

        server.behaviour = count_then_answer
        run_evaluation(
            request(data, tmp_path / "run", server.server_port, endpoint=EndpointOptions(concurrency=1))
        )
    assert lines == list(range(12))


def test_what_a_run_folder_says_of_a_server(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    out = tmp_path / "run"
    refused = completion("", refusal="I cannot judge medical images.")
    with running() as server:
        server.faults.append(status(200, refused))
        options = EndpointOptions(key_variable="MY_KEY", prices=(2.0, 10.0))
        run_evaluation(request(data, out, server.server_port, endpoint=options))
        url = f"http://127.0.0.1:{server.server_port}/v1"
    config = json.loads((out / "config.json").read_text())
    assert config["model_digest"] == f"unverifiable:{url}#m" and config["max_pixels"] == 401408
    facts = json.loads((out / "endpoint/data.json").read_text())
    assert (facts["prompt_tokens"], facts["completion_tokens"]) == (1200, 84)
    assert facts["cost"] == pytest.approx((1200 * 2 + 84 * 10) / 1e6)
    assert facts["served"] == {"served-model fp_1": 12}
    assert sum(p.outcome is Outcome.REFUSED for p in stored(out).values()) == 1
    for file in out.rglob("*"):
        assert file.is_dir() or SECRET not in file.read_text(), file
    assert all(Headers(h)["authorization"] == f"Bearer {SECRET}" for _, h, _ in server.requests)
    # The same completions under another rule: the server is not asked, and a refusal stays one.
    again = run_evaluation(request(data, out, 1, model=config["model"], scorer="paper-strict:med_r1")).summary
    assert again.overall.outcomes["refused"] == 1 and len(server.requests) == 12
    run_evaluation(request(data, out, 1, model=config["model"], endpoint=options))
    assert json.loads((out / "endpoint/data.json").read_text()) == facts


def test_a_server_can_be_asked_whether_it_looks(data: Path, tmp_path: Path) -> None:
    with running() as server:
        asked = request(data, tmp_path / "run", server.server_port, ablate=("blank-image",))
        found = run_evaluation(asked)
        assert [finding.kind for finding in found.findings] == ["looking"]
        urls = [
            part["image_url"]["url"]
            for _, _, body in server.requests
            for part in body["messages"][0]["content"]
            if part["type"] == "image_url"
        ]
        blank = [u for u in urls if len(pixels(u).getcolors(1 << 16) or ()) == 1]
        assert len(blank) == 12 and {pixels(u).getpixel((0, 0)) for u in blank} == {(128, 128, 128)}
        with pytest.raises(BadInput, match="question-only: needs to look inside"):
            run_evaluation(request(data, tmp_path / "run", server.server_port, ablate=("question-only",)))


def pixels(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_on_the_command_line(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    common = ["--data", str(data), "--out", str(tmp_path / "run")]
    with running() as server:
        model = f"openai:http://127.0.0.1:{server.server_port}/v1#m"
        options = [
            "--concurrency",
            "2",
            "--timeout",
            "30",
            "--prices",
            "1",
            "2",
            "--limit-parameter",
            "max_tokens",
        ]
        assert main(["evaluate", "--model", model, *common, *options, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["overall"]["num_correct"] == 8
    assert server.requests[0][2]["max_tokens"] == 256
    for arguments, message in (
        (["--model", model, "--scorer", "letter-logprob"], "letter-logprob: looks inside the model"),
        (["--model", model, "--precision", "bf16"], "--precision"),
        (["--model", model, "--attempts", "0"], "--attempts"),
        (["--model", model, "--limit-parameter", "max"], "max_tokens"),
        (["--model", "openai:http://u:secretword@host/v1#m"], "would be stored"),
        (["--model", "openai:host#m"], "openai:URL#name"),
        (["--model", "phantom-base", "--attempts", "2"], "no server"),
    ):
        assert main(["evaluate", *arguments, *common[:2], "--out", str(tmp_path / "other")]) == 2, arguments
        err = capfd.readouterr().err.strip().splitlines()
        assert message in err[-1] and "secretword" not in err[-1], err


def test_addresses_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Address.parse("openai:https://api.x.org/v1/chat/completions#a/b").url == "https://api.x.org/v1"
    for bad in (
        "openai:#m",
        "openai:http://h/v1",
        "openai:ftp://h#m",
        "openai:http://h/v1?key=1#m",
        "openai:http://[#m",
    ):
        with pytest.raises(BadInput):
            Address.parse(bad)
    monkeypatch.setenv("OSLER_API_KEY", "sk-\u2028x")
    with pytest.raises(BadInput, match="OSLER_API_KEY"):
        _ = EndpointOptions().key
    monkeypatch.setenv("OSLER_API_KEY", SECRET)
    notes: list[str] = []
    Endpoint(Address("http://far.example/v1", "m"), EndpointOptions(), note=notes.append, **BOUNDS)
    assert "plain http" in notes[0] and SECRET not in notes[0]
