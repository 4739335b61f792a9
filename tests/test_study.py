"""Studies: what is planned, what is kept, what is redone, and what survives being killed."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from osler.cli import main
from osler.config import load_config
from osler.errors import BadInput
from osler.study import inputs as study_inputs
from osler.study.graph import (
    Job,
    command_line,
    descendants,
    in_order,
    job_from_json,
    job_to_json,
    shell_lines,
)
from osler.study.inputs import Inputs, read_inputs
from osler.study.local import Devices, LocalLauncher
from osler.study.plan import Plan, models_of, plan
from osler.study.predict import estimates, makespan
from osler.study.recipe import STUDY_DIR, StudyRecipe, load_study, study_from_json, study_names
from osler.study.run import Ended, run_jobs
from osler.study.store import Held, Store, read_plan
from study_jobs import WHOLE, fake_jobs, paths, steps

MODELS = {"phantom-base": "0" * 64, "Qwen/Qwen2-VL-2B-Instruct": "1" * 64}
RELEASED = {"med_r1_released": ["released=/nowhere"]}
PHANTOMS = [name for name in study_names() if name.startswith("phantom_")]


def phantom_plan(recipe: str = "phantom_medvlm_r1_table", *overrides: str) -> Plan:
    study = load_study(recipe, overrides)
    counts = dict.fromkeys(study_inputs.AXES[study.axis], 700)
    found = Inputs(digests={}, train_counts=counts, test_counts=counts, exact=True, models=MODELS, shapes={})
    return plan(study, found)


def keys(planned: Plan) -> dict[str, str]:
    return {job.name: job.key for job in planned.jobs}


def changed(a: Plan, b: Plan) -> set[str]:
    return {name for name, key in keys(b).items() if keys(a).get(name) != key}


# ------------------------------------------------------------------------------------------- recipes and plan


@pytest.mark.parametrize("name", study_names())
def test_every_study_resolves_and_survives_json(name: str) -> None:
    files = [] if name in PHANTOMS else ["data.source=/nowhere", "data.splits=image"]
    study = load_study(name, [*files, *RELEASED.get(name, [])])
    assert study_from_json(json.loads(json.dumps(dataclasses.asdict(study)))) == study
    assert study.model in set(models_of(study))
    for row in study.chosen_rows.values():
        assert not row.recipe or load_config(study.recipe_of(row, study.train_on[-1]), row.overrides)


def test_the_medvlm_table_is_the_papers() -> None:
    planned = phantom_plan()
    trained = [job for job in planned.jobs if job.kind == "train"]
    assert {job.facts["on"] for job in trained} == {"mri"}
    assert {(job.facts["row"], job.facts["seed"]) for job in trained} == {
        (row, seed) for row in ("sft", "sft_steps", "grpo_think") for seed in (0, 1, 2)
    }
    tested = [job for job in planned.jobs if job.kind == "evaluate"]
    assert len(tested) == 2 + len(trained)
    assert all("mri,ct,xray" in job.command for job in tested)
    assert planned.jobs[0].command[-1] == "ct,mri,xray"


def test_jobs_are_commands_that_the_program_takes() -> None:
    planned = phantom_plan()
    by_name = {job.name: job for job in planned.jobs}
    root = Path("/s/jobs")
    job = by_name["grpo_think-mri-1"]
    words = command_line(job, by_name, root)
    assert words[:5] == ["grpo", "phantom_medvlm_r1_mri", "--out", str(root / job.folder), "--resume"]
    config = load_config(words[1], words[5:])
    assert config.data.train == str(root / by_name["phantom"].folder / "train")
    assert config.seed == 1 and config.data.num_questions == 600 and config.data.modality == ("mri",)
    assert list(config.validation.sets) == ["mri", "ct", "xray"]
    lines = list(shell_lines(planned.jobs, root))
    assert len(lines) == 2 * len(planned.jobs) and all(
        line.startswith(("# ", "osler ")) and "{" not in line.split("=")[0] for line in lines
    )


@pytest.mark.parametrize(("name", "size"), [("med_r1_modalities", 8), ("med_r1_tasks", 5)])
def test_the_matrices_are_the_papers(name: str, size: int) -> None:
    planned = phantom_plan(f"phantom_{name}")
    for method in ("grpo_think", "grpo_nothink", "grpo_think_after", "sft"):
        trained = [j for j in planned.jobs if j.kind == "train" and j.facts["row"] == method]
        assert len(trained) == size and len({job.facts["on"] for job in trained}) == size
    assert sum(job.kind == "evaluate" for job in planned.jobs) == 2 + 4 * size
    timed = phantom_plan(f"phantom_{name}", 'only=["zero_shot_think", "sft", "grpo_think", "grpo_nothink"]')
    assert not changed(planned, timed)
    after = next(
        job for job in planned.jobs if job.name.startswith("grpo_think_after") and job.kind == "train"
    )
    assert "template=think_after" in after.command


def test_a_key_says_what_changed_and_nothing_else() -> None:
    planned = phantom_plan()
    assert keys(planned) == keys(phantom_plan())
    everything = set(keys(planned))
    assert changed(planned, phantom_plan("phantom_medvlm_r1_table", "data.phantom_seed=7")) == everything
    more = changed(planned, phantom_plan("phantom_medvlm_r1_table", "seeds=[0, 1, 2, 3]"))
    assert more == {
        f"{row}-mri-3{end}" for row in ("sft", "sft_steps", "grpo_think") for end in ("", "-test")
    }
    tests = {job.name for job in planned.jobs if job.kind == "evaluate"}
    assert changed(planned, phantom_plan("phantom_medvlm_r1_table", "test_questions=100")) == tests
    one = 'rows.grpo_think.overrides=["grpo.kl_coef=0.1"]'
    redone = changed(planned, phantom_plan("phantom_medvlm_r1_table", one))
    assert redone == {f"grpo_think-mri-{seed}{end}" for seed in (0, 1, 2) for end in ("", "-test")}
    kept = phantom_plan("phantom_medvlm_r1_table", 'only=["grpo_think"]')
    assert not changed(planned, kept) and len(kept.jobs) == 7


def test_where_the_files_lie_is_no_part_of_a_key(tmp_path: Path) -> None:
    def with_files(folder: str, digest: str) -> Plan:
        train, test = f"{folder}/train.json", f"{folder}/test.json"
        study = load_study("medvlm_r1_table", [f"data.train={train}", f"data.test={test}"])
        digests = {train: digest, test: "t" * 64}
        counts = {"mri": 900, "ct": 900, "xray": 900}
        found = Inputs(
            digests=digests, train_counts=counts, test_counts=counts, exact=True, models=MODELS, shapes={}
        )
        return plan(study, found)

    here = with_files("/here", "a" * 64)
    assert keys(here) == keys(with_files("/there", "a" * 64))
    changed_names = changed(here, with_files("/here", "b" * 64))
    assert changed_names == {n for n in keys(here) if "-mri-" in n}


def test_what_has_no_questions_has_no_job_and_no_cell() -> None:
    study = load_study("phantom_medvlm_r1_table", ['train_on=["mri", "oct"]'])
    found = Inputs(
        digests={},
        train_counts={"mri": 5},
        test_counts={"mri": 5, "ct": 5},
        exact=True,
        models=MODELS,
        shapes={},
    )
    planned = plan(study, found)
    assert planned.untrained == ("oct",) and planned.untested == ("xray",)
    assert {job.facts["on"] for job in planned.jobs if job.kind == "train"} == {"mri"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["test_on=[]"], "nothing to test on"),
        (['train_on=["mrt"]'], "'mrt' is no modality"),
        (["seeds=[0, 0]"], "one seed twice"),
        (['only=["grpo"]'], "no row 'grpo'"),
        (["data.splits=image"], "a phantom has its own splits"),
        (["rows.grpo_think.reciep=x"], "did you mean rows.grpo_think.recipe"),
        (['rows.x={label = "x", recipe = "y", model = "z"}'], "row x is trained by its recipe"),
    ],
)
def test_a_study_that_does_not_fit_together_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load_study("phantom_medvlm_r1_table", overrides)


def test_a_study_without_questions_says_how_to_give_them() -> None:
    with pytest.raises(BadInput, match=r"data\.train=PATH data\.test=PATH"):
        load_study("medvlm_r1_table")


# ------------------------------------------------------------------------------------- what it rests on


def write_questions(path: Path, rows: Sequence[dict]) -> str:
    path.mkdir()
    (path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def row(number: int, modality: str = "mri") -> dict:
    return {
        "id": f"q{number}",
        "text": f"What is {number}?",
        "choices": ["x", "y"],
        "answer_index": 0,
        "modality": modality,
    }


def files_study(train: str, test: str) -> StudyRecipe:
    return load_study("medvlm_r1_table", [f"data.train={train}", f"data.test={test}"])


def test_test_questions_that_are_trained_on_are_refused(tmp_path: Path) -> None:
    train = write_questions(tmp_path / "a", [row(i) for i in range(50)])
    test = write_questions(tmp_path / "b", [row(i) for i in range(45, 95)])
    with pytest.raises(BadInput, match="5 of 50 test questions are training questions"):
        read_inputs(files_study(train, test), [], tmp_path / "cache.json")


def test_test_questions_are_left_out_of_the_training_where_that_is_asked(tmp_path: Path) -> None:
    train = write_questions(tmp_path / "a", [row(i) for i in range(50)])
    test = write_questions(tmp_path / "b", [row(i) for i in range(45, 95)])
    study = load_study(
        "medvlm_r1_table", [f"data.train={train}", f"data.test={test}", "data.without_test=true"]
    )
    found = read_inputs(study, [], tmp_path / "cache.json")
    assert found.train_counts == {"mri": 45} and found.left_out is not None and found.left_out.total == 5
    planned = plan(study, dataclasses.replace(found, models=MODELS))
    trained = [job for job in planned.jobs if job.kind == "train"]
    assert trained and all(f"data.without={test}" in job.command for job in trained)
    assert planned.left_out.startswith("5: ") and planned.to_json()["left_out"] == planned.left_out
    # Another test set leaves other questions out: every training depends on it.
    other = dataclasses.replace(found, models=MODELS, digests={**found.digests, test: "x" * 64})
    assert changed(planned, plan(study, other)) == set(keys(planned))
    with pytest.raises(BadInput, match=r"without_test is for data\.splits=given"):
        load_study("phantom_medvlm_r1_table", ["data.without_test=true"])


def test_further_passes_are_asked_of_the_rows_that_can_be_asked() -> None:
    wanted = 'evaluate={ablate=["noise","question-only"],rotate=true,thinking=true,confidence=true,samples=4}'
    server = 'rows.big={label="big",template="think",model="openai:http://127.0.0.1:1/v1#m"}'
    alone = "rows.zero_shot_nothink.evaluate={samples=2}"
    base = phantom_plan()
    study = load_study("phantom_medvlm_r1_table", [wanted, server, alone])
    counts = dict.fromkeys(study_inputs.AXES["modality"], 700)
    models = {**MODELS, "openai:http://127.0.0.1:1/v1#m": "openai:http://127.0.0.1:1/v1#m"}
    found = Inputs(digests={}, train_counts=counts, test_counts=counts, models=models, shapes={})
    planned = plan(study, found)
    words = {job.facts["row"]: " ".join(job.command) for job in planned.jobs if job.kind == "evaluate"}
    every = "--ablate noise,question-only --rotate --thinking --confidence --samples 4"
    assert every in words["zero_shot_think"] and every in words["grpo_think"]
    assert every.replace("--thinking ", "") in words["sft"]  # no reasoning before its answer
    assert words["big"].endswith(" --ablate noise --rotate")
    assert not any(
        word in words["big"] for word in ("--thinking", "--confidence", "--samples", "question-only")
    )
    assert "--samples 2" in words["zero_shot_nothink"] and "--ablate" not in words["zero_shot_nothink"]
    tests = {job.name for job in planned.jobs if job.kind == "evaluate"}
    assert changed(base, planned) == tests  # no training is done again
    for wrong, said in (('ablate=["blank"]', "blank-image"), ("samples=1", "at least 2")):
        with pytest.raises(BadInput, match=said):
            load_study("phantom_medvlm_r1_table", [f"evaluate.{wrong}"])


def test_a_published_checkpoint_has_to_be_named() -> None:
    files = ["data.source=/nowhere", "data.splits=image"]
    with pytest.raises(BadInput, match=r"row released_paper .* released=FOLDER"):
        load_study("med_r1_released", files)
    study = load_study("med_r1_released", [*files, "released=someone/med-r1"])
    assert set(models_of(study)) == {"Qwen/Qwen2-VL-2B-Instruct", "someone/med-r1"}
    assert "JZPeterPan/MedVLM-R1" in set(models_of(load_study("medvlm_r1_released", files)))


def test_questions_that_do_not_name_the_axis_are_refused(tmp_path: Path) -> None:
    train = write_questions(tmp_path / "a", [row(i, "unknown") for i in range(5)])
    test = write_questions(tmp_path / "b", [row(i) for i in range(5, 9)])
    with pytest.raises(BadInput, match="no question names its modality"):
        read_inputs(files_study(train, test), [], tmp_path / "cache.json")


def test_digests_are_of_the_contents_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = write_questions(tmp_path / "a", [row(i) for i in range(5)])
    test = write_questions(tmp_path / "b", [row(i, "ct") for i in range(5, 9)])
    study, cache = files_study(train, test), tmp_path / "cache.json"
    first = read_inputs(study, [], cache)
    assert first.train_counts == {"mri": 5} and first.test_counts == {"ct": 4}
    monkeypatch.setattr(study_inputs, "questions_digest", lambda questions: pytest.fail("computed again"))
    assert read_inputs(study, [], cache) == first
    monkeypatch.undo()
    (tmp_path / "a" / "questions.jsonl").write_text(json.dumps(row(77)) + "\n")
    second = read_inputs(study, [], cache)
    assert second.digests[train] != first.digests[train] and second.digests[test] == first.digests[test]


# ------------------------------------------------------------------------------------------- graph and times


def test_order_puts_parents_first_and_refuses_circles() -> None:
    jobs = fake_jobs()
    for shuffled in itertools.permutations(jobs):
        placed = [job.name for job in in_order(shuffled)]
        assert placed.index("first") == 0 and placed.index("last") == 3
    first, left, *_ = jobs
    with pytest.raises(ValueError, match="needs itself"):
        in_order([dataclasses.replace(first, parents=("left",)), left])
    with pytest.raises(ValueError, match="no job"):
        in_order([left])
    assert descendants(jobs, "left") == {"last"} and descendants(jobs, "first") == {"left", "right", "last"}
    assert job_from_json(json.loads(json.dumps(job_to_json(left)))) == left


def slow_makespan(jobs: Sequence[Job], seconds: dict[str, int], slots: int) -> int:
    """The same second by second."""
    waiting, running, ended, now = list(jobs), {}, set(), 0
    while waiting or running:
        for name in [name for name, end in running.items() if end == now]:
            ended.add(name)
            del running[name]
        while waiting and len(running) < slots and set(waiting[0].parents) <= ended:
            job = waiting.pop(0)
            running[job.name] = now + seconds[job.name]
        now += 1
    return now - 1


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("times", [(1, 2, 3, 4), (4, 3, 2, 1), (5, 1, 9, 2)])
def test_makespan_against_a_clock(slots: int, times: tuple[int, ...]) -> None:
    jobs = fake_jobs()
    seconds = dict(zip([job.name for job in jobs], times, strict=True))
    assert makespan(jobs, seconds, slots) == slow_makespan(jobs, seconds, slots)


def test_times_come_from_like_jobs_once_there_are_any(tmp_path: Path) -> None:
    store, jobs = Store(tmp_path), fake_jobs()
    assert {e.how for e in estimates(jobs, store, set(), "cpu").values()} == {"predicted"}
    for name, seconds in (("first", 10.0), ("left", 30.0), ("right", None)):
        job = next(job for job in jobs if job.name == name)
        store.result(job).mkdir(parents=True)
        store.mark_done(job, seconds)
    last = dataclasses.replace(jobs[-1], work=3.0)
    found = estimates([*jobs[:3], last], store, {"first", "left", "right"}, "cpu")
    assert found["first"].how == "done" and found["last"].how == "like jobs"
    assert found["last"].seconds == pytest.approx(3 * 20.0)


# ------------------------------------------------------------------------------------------------ running


class Fake:
    """A launcher whose jobs end at once: with their result, or with an exit code of their own."""

    slots, device = 2, "cpu"

    def __init__(self, fail: Sequence[str] = ()) -> None:
        self.started: list[str] = []
        self.fail: Sequence[str] = fail
        self.ended: dict[str, Ended] = {}

    def start(self, job: Job, arguments: Sequence[str], store: Store, held: Held) -> str:
        self.started.append(job.name)
        store.log(job).write_text("".join(f"line {i}\n" for i in range(30)))
        if job.name not in self.fail:
            Path(arguments[1]).mkdir(parents=True, exist_ok=True)
        self.ended[job.name] = Ended(3 if job.name in self.fail else 0, 1.0)
        return f"started {job.name}"

    def poll(self, say: Callable[[str], None]) -> dict[str, Ended]:
        ended, self.ended = self.ended, {}
        return ended

    def stop(self) -> None:
        pass


@dataclasses.dataclass
class Never:
    received: int | None = None


@contextlib.contextmanager
def never() -> Iterator[Never]:
    yield Never()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("osler.study.run.POLL_SECONDS", 0.001)


def test_done_work_is_not_done_again_and_a_change_redoes_what_needs_it(tmp_path: Path) -> None:
    store, launcher = Store(tmp_path), Fake()
    assert run_jobs(fake_jobs(), store, launcher, never).done == launcher.started
    assert launcher.started == ["first", "left", "right", "last"]
    again = Fake()
    assert len(run_jobs(fake_jobs(), store, again, never).done) == 4 and again.started == []
    other = Fake()
    run_jobs(fake_jobs(version=1), store, other, never)
    assert other.started == ["left", "last"]
    back = Fake()
    run_jobs(fake_jobs(), store, back, never)
    assert back.started == []


def test_questions_that_a_server_left_open_are_asked_at_the_next_start(tmp_path: Path) -> None:
    store, job = Store(tmp_path), fake_jobs()[0]
    run_jobs([job], store, Fake(), never)
    facts = store.result(job) / "endpoint" / "x.json"
    facts.parent.mkdir()
    for unanswered, started in ((2, [job.name]), (0, [])):
        facts.write_text(json.dumps({"unanswered": unanswered}))
        again = Fake()
        assert run_jobs([job], store, again, never).done == [job.name]
        assert again.started == started and store.is_done(job)


def test_a_failed_job_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    store, said = Store(tmp_path), []
    ended = run_jobs(fake_jobs(), store, Fake(fail=["left"]), never, lambda text, _: said.append(text))
    assert ended.done == ["first", "right"] and ended.blocked == {"last": "left"}
    assert ended.failed["left"].exit_code == 3
    assert ended.failed["left"].tail == tuple(f"line {i}" for i in range(18, 30))
    assert any("FAILED left" in text for text in said)
    assert store.failure(fake_jobs()[1]) == ended.failed["left"]
    repaired = Fake()
    assert len(run_jobs(fake_jobs(), store, repaired, never).done) == 4
    assert repaired.started == ["left", "last"] and store.failure(fake_jobs()[1]) is None


def test_a_mark_of_another_key_or_without_its_result_is_no_result(tmp_path: Path) -> None:
    store, job = Store(tmp_path), fake_jobs()[0]
    store.place(job).mkdir(parents=True)
    store.mark_done(job, 1.0)
    assert not store.is_done(job)
    store.result(job).mkdir()
    assert store.is_done(job)
    (store.place(job) / "done.json").write_text('{"key": "half')
    assert not store.is_done(job)
    store.mark_done(dataclasses.replace(job, key=job.key[:10] + "0" * 54), 1.0)
    assert not store.is_done(job)


def test_a_lock_is_waited_for_and_dies_with_its_process(tmp_path: Path) -> None:
    store, job = Store(tmp_path), fake_jobs()[0]
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from osler.study.store import Store\nfrom study_jobs import WHOLE, fake_jobs, paths, steps\n"
        "held = Store(Path(sys.argv[1])).hold(fake_jobs()[0]); print('held', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, env=paths()
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    assert store.hold(job) is None

    def killed(text: str, _: object) -> None:
        if "still works on it" in text:
            holder.kill()

    assert len(run_jobs(fake_jobs(), store, Fake(), never, killed).done) == 4
    holder.wait()


def start_study(study: Path) -> subprocess.Popen[bytes]:
    program = [sys.executable, str(Path(__file__).parent / "study_jobs.py"), str(study)]
    return subprocess.Popen(program, env=paths())


def wait_for(study: Path, name: str, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(steps(study)[name]) < count:
        assert time.monotonic() < deadline, steps(study)
        time.sleep(0.01)


def test_killed_at_any_moment_it_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    for name, count in (("first", 4), ("left", 3), ("last", 2)):
        process = start_study(tmp_path)
        wait_for(tmp_path, name, count)
        process.kill()  # its jobs live on, and the next start waits for them
        process.wait()
    assert start_study(tmp_path).wait() == 0
    assert steps(tmp_path) == WHOLE


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_the_children_too(tmp_path: Path, number: int, code: int) -> None:
    process = start_study(tmp_path)
    wait_for(tmp_path, "left", 2)
    process.send_signal(number)
    assert process.wait() == code
    reached = steps(tmp_path)
    time.sleep(0.3)
    assert steps(tmp_path) == reached and not reached["last"]
    assert start_study(tmp_path).wait() == 0
    assert steps(tmp_path) == WHOLE


def test_jobs_share_the_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = "import os, sys; print(os.environ.get('CUDA_VISIBLE_DEVICES'), os.environ.get('OMP_NUM_THREADS'))"
    monkeypatch.setattr("osler.study.local.program", lambda job: ["-c", seen])
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def environments(devices: Devices, workers: int) -> list[str]:
        launcher, store = LocalLauncher(devices, workers), Store(tmp_path)
        for job in fake_jobs()[: launcher.slots]:
            held = store.hold(job)
            assert held is not None
            launcher.start(job, [], store, held)
            held.release()
        while launcher._running:
            launcher.poll(print)
        logs = [store.log(job) for job in fake_jobs()[: launcher.slots]]
        texts = [log.read_text().strip() for log in logs]
        for log in logs:
            log.unlink()
        return texts

    assert environments(Devices(cores=4, gpus=0), 2) == ["None 2", "None 2"]
    assert environments(Devices(cores=4, gpus=2), 4) == ["0 9", "1 9", "0 9", "1 9"]


def test_a_folder_that_is_no_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no study\.json"):
        read_plan(tmp_path)
    (tmp_path / "study.json").write_text('{"jobs"')
    with pytest.raises(BadInput, match="damaged"):
        read_plan(tmp_path)


def test_models_of_a_study_are_those_that_it_starts_from() -> None:
    assert set(models_of(load_study("phantom_medvlm_r1_table"))) == {"phantom-base"}
    assert (STUDY_DIR / "medvlm_r1_table.toml").is_file()


def test_without_ray_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("osler.study.ray_launcher.find_spec", lambda name: None)
    assert main(["study", "phantom_mini", "--out", str(tmp_path), "--launcher", "ray"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install 'osler[ray]'" in said
