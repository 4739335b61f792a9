"""A server as a row of a study: options and keys, and a server that fails, stalls and dies in mid-row."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from chat_server import ChatServer, Handler, answer, hang_up, running, stall, status
from osler.cli import main
from osler.data.folder import write_folder
from osler.errors import BadInput
from osler.evaluate.predictions import read_predictions
from osler.records import Modality, Prediction, Question
from osler.report.study_page import write_study_page
from osler.study.graph import Job, command_line
from osler.study.inputs import Inputs, read_inputs
from osler.study.local import Devices, LocalLauncher
from osler.study.plan import Plan, models_of, plan
from osler.study.recipe import StudyRecipe, load_study
from osler.study.results import read_results, results_to_json
from osler.study.run import Progress, run_jobs
from osler.study.store import Store

SECRET = "sk-secret-0123"
NUM_QUESTIONS = 24
RECIPE = """
title = "Two servers"
test_on = ["mri", "ct"]
max_completion_tokens = 64

[rows.flaky]
label = "flaky"
template = "think"
model = "openai:http://127.0.0.1:{flaky}/v1#m"

[rows.flaky.endpoint]
concurrency = 1
timeout_seconds = 10
attempts = 2
key_variable = "FLAKY_KEY"
prices = [2, 10.0]

[rows.steady]
label = "steady"
template = "think"
model = "openai:http://127.0.0.1:{steady}/v1#m"
"""


def questions(start: int, count: int, folder: Path) -> list[Question]:
    """Questions whose text says the answer; the last quarter of them says a wrong one."""
    made = []
    folder.mkdir(parents=True)
    for i in range(start, start + count):
        Image.frombytes("RGB", (30, 30), random.Random(i).randbytes(2700)).save(folder / f"{i}.png")
        said = i % 4
        made.append(
            Question(
                id=f"q{i}",
                text=f"Case {i}: say {'ABCD'[said]}",
                choices=("left", "right", "both", "none"),
                answer_index=said if i < start + 3 * count // 4 else (said + 1) % 4,
                images=(str(folder / f"{i}.png"),),
                modality=Modality.MRI if i % 2 else Modality.CT,
            )
        )
    return made


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write_folder(questions(0, NUM_QUESTIONS, tmp_path / "a"), tmp_path / "test")
    write_folder(questions(100, 4, tmp_path / "b"), tmp_path / "train")
    path = tmp_path / "two_servers.toml"
    path.write_text(RECIPE.format(flaky=1, steady=1))
    return path


def study_of(recipe: Path, *overrides: str) -> StudyRecipe:
    data = [f"data.train={recipe.parent / 'train'}", f"data.test={recipe.parent / 'test'}"]
    return load_study(recipe, [*data, *overrides])


def plan_of(recipe: Path, *overrides: str) -> Plan:
    study = study_of(recipe, *overrides)
    return plan(study, read_inputs(study, models_of(study), recipe.parent / "inputs.json"))


def job_of(planned: Plan, row: str) -> Job:
    return next(job for job in planned.jobs if job.facts["row"] == row)


# ------------------------------------------------------------------------------------ from recipe to command


def test_how_a_server_is_asked_reaches_the_command_and_not_the_key(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAKY_KEY", SECRET)
    planned = plan_of(recipe)
    words = " ".join(command_line(job_of(planned, "flaky"), {}, Path("/s")))
    for option in ("--concurrency 1", "--timeout 10.0", "--attempts 2", "--key-variable FLAKY_KEY"):
        assert option in words
    assert "--prices 2.0 10.0" in words and "--precision" not in words and "--limit-parameter" not in words
    assert "--concurrency" not in " ".join(job_of(planned, "steady").command)
    for change in ("concurrency=9", "prices=[1.0, 1.0]", "attempts=1", "timeout_seconds=9"):
        other = plan_of(recipe, f"rows.flaky.endpoint.{change}")
        assert job_of(other, "flaky").key == job_of(planned, "flaky").key
    for change in ('endpoint.limit_parameter="max_tokens"', 'model="openai:http://127.0.0.1:1/v1#n"'):
        other = plan_of(recipe, f"rows.flaky.{change}")
        assert job_of(other, "flaky").key != job_of(planned, "flaky").key
        assert job_of(other, "steady").key == job_of(planned, "steady").key
    assert job_of(planned, "flaky").work == NUM_QUESTIONS
    assert SECRET not in json.dumps(planned.to_json())


def test_servers_see_images_as_large_as_those_that_are_trained() -> None:
    large = 'rows.large={label = "large", template = "think", model = "openai:http://127.0.0.1:1/v1#m"}'
    study = load_study("phantom_mini", [large, 'only=["large", "zero_shot_think"]'])
    counts = {"mri": 9, "ct": 9}
    models = dict.fromkeys(models_of(study), "0" * 64)
    found = Inputs(digests={}, train_counts=counts, test_counts=counts, exact=True, models=models, shapes={})
    bounds = [re.findall(r"--m..-pixels \d+", " ".join(job.command)) for job in plan(study, found).jobs[1:]]
    assert len(bounds) == 2 and bounds[0] == bounds[1] and len(bounds[0]) == 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (f'rows.flaky.model="openai:http://user:{SECRET}@h/v1#m"', "would be stored"),
        (f'rows.flaky.model="openai:http://h/v1?key={SECRET}#m"', "would be stored"),
        (f'rows.flaky.endpoint.key_variable="{SECRET}"', "never the key itself"),
        (f'rows.flaky.arguments=["--key-variable", "{SECRET}"]', r"write rows\.flaky\.endpoint"),
        (f'rows.flaky.arguments=["--key-variable={SECRET}"]', r"write rows\.flaky\.endpoint"),
        ('rows.flaky.endpoint.limit_parameter="max"', "max_tokens"),
        ("rows.flaky.endpoint.prices=[1.0]", "two numbers"),
        ("rows.flaky.endpoint.concurency=3", "did you mean rows.flaky.endpoint.concurrency"),
        ('rows.flaky.model="phantom-base"', "its model is no openai:URL#name"),
        ('rows.flaky.model="openai:host#m"', "openai:URL#name"),
    ],
)
def test_what_cannot_be_asked_is_refused_without_repeating_a_key(
    recipe: Path, override: str, said: str
) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        study_of(recipe, override)
    assert SECRET not in str(caught.value)


def test_a_key_that_is_not_there_is_missed_before_anything_runs(
    recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = SECRET.replace("-", "_")  # somebody wrote the key where its name belongs
    words = [f"data.train={tmp_path / 'train'}", f"data.test={tmp_path / 'test'}"]
    words += [f'rows.flaky.endpoint.key_variable="{secret}"']
    assert main(["study", str(recipe), "--out", str(tmp_path / "out"), *words]) == 2
    said = capfd.readouterr().err
    assert "is not set here" in said and secret not in said
    assert not list((tmp_path / "out").rglob("*.json"))


# -------------------------------------------------------------------------------------------- a whole study


@dataclass
class Never:
    received: int | None = None


@contextmanager
def never() -> Iterator[Never]:
    yield Never()


def run(recipe: Path, out: Path) -> tuple[Plan, Store, Progress]:
    planned, store = plan_of(recipe), Store(out)
    store.write_plan(planned.to_json())
    launcher = LocalLauncher(Devices(cores=1, gpus=0))
    return planned, store, run_jobs(planned.jobs, store, launcher, never)


def answers(store: Store, job: Job) -> dict[str, Prediction]:
    (path,) = store.result(job).glob("predictions/*.jsonl")
    return {p.question_id: p for p in read_predictions(path).predictions}


def cases(server: ChatServer) -> list[int]:
    texts = [part["text"] for _, _, body in server.requests for part in body["messages"][0]["content"][1:]]
    return [int(text.split(":")[0].removeprefix("Case ")) for text in texts]


def test_a_server_that_dies_in_mid_row_loses_and_invents_nothing(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAKY_KEY", SECRET)
    out = tmp_path / "study"
    faults = [
        status(429, {"error": {"message": f"slow down, {SECRET}"}}, retry_after="1"),
        status(500, {"error": "boom"}),
        status(200, "<html>log in</html>"),
        stall,
        hang_up,
    ]
    with running() as steady:
        with running() as flaky:
            port = flaky.server_port
            recipe.write_text(RECIPE.format(flaky=port, steady=steady.server_port))
            # Every other request fails, each in another way; then nothing is heard any more.
            plans = iter([f for fault in faults for f in (fault, answer)] + [answer] * 5)

            def until_it_dies(handler: Handler) -> None:
                next(plans, hang_up)(handler)

            flaky.behaviour = until_it_dies
            planned, store, ended = run(recipe, out)
        broken, whole = job_of(planned, "flaky"), job_of(planned, "steady")
        assert ended.done == [whole.name] and set(ended.failed) == {broken.name}
        assert any("questions in a row without an answer" in line for line in ended.failed[broken.name].tail)
        first = {i: p for i, p in answers(store, broken).items() if not p.error}
        assert 0 < len(first) < NUM_QUESTIONS
        results = read_results(out)
        assert [line.row for line in results.lines] == ["steady"]
        page = write_study_page(out, out / "report.html").path.read_text(encoding="utf-8")
        assert "questions in a row without an answer" in page and "1 of them not done" in page

        before = len(steady.requests)
        with running(port) as back:
            _, _, again = run(recipe, out)
        assert len(again.done) == 2 and not again.failed and len(steady.requests) == before
        missing = {int(i.removeprefix("q")) for i in answers(store, broken)} - {
            int(i.removeprefix("q")) for i in first
        }
        assert sorted(cases(back)) == sorted(missing)

    second = answers(store, broken)
    assert {i: second[i] for i in first} == first
    other = answers(store, whole)
    assert {i: (p.text, p.outcome) for i, p in second.items()} == {
        i: (p.text, p.outcome) for i, p in other.items()
    }
    table = results_to_json(read_results(out))["table"]
    assert [row["cells"] for row in table[:1]] == [row["cells"] for row in table[1:]]
    assert sum(cell["num_correct"] for cell in table[0]["cells"].values()) == 3 * NUM_QUESTIONS // 4
    served = table[0]["server"]
    assert (served["answers"], served["unanswered"]) == (NUM_QUESTIONS, 0)
    assert (served["prompt_tokens"], served["completion_tokens"]) == (2400, 168)
    assert served["cost"] == pytest.approx((2400 * 2 + 168 * 10) / 1e6)
    assert sum(served["failed_requests"].values()) >= len(faults)
    page = write_study_page(out, out / "report.html").path.read_text(encoding="utf-8")
    assert "served-model fp_1 (24)" in page and "HTTP 429: slow down, [key]" in page
    for file in out.rglob("*"):
        assert file.is_dir() or SECRET not in file.read_text(errors="replace"), file
    assert all("Bearer" in str(headers) for _, headers, _ in back.requests)
