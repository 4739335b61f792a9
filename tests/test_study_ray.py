"""Studies on a local Ray cluster: the same table, also where a worker is killed in mid-training."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from osler.cli import main
from osler.errors import BadInput
from osler.signals import SignalWatch
from osler.study import ray_launcher
from osler.study.ray_launcher import Attendant, Orders, RayLauncher, connected
from osler.study.run import Ended, Progress, run_jobs
from osler.study.store import Store
from study_jobs import WHOLE, fake_jobs, paths, steps

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'osler[ray]'")

TINY = """
extends = "phantom_mini"
title = "tiny"
train_on = ["mri"]
train_questions = 24
test_questions = 6
max_completion_tokens = 24
only = ["grpo_think"]
overrides = [
  "grpo.group_size=2",
  "grpo.epochs=1",
  "grpo.max_completion_tokens=24",
  "grpo.questions_per_step=1",
]

[data]
phantom_images = 20
"""
PROGRAM = str(Path(__file__).parent / "study_jobs.py")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two CPUs of this machine; the address, for other processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths()["PYTHONPATH"])
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # 15 otherwise, and a busy machine never comes to it
        try:
            ray.init(
                "local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
            )
        except Exception as error:  # Ray raises bare ones; its agent has some seconds to start, and no more
            pytest.skip(f"no Ray cluster came up on this machine: {error}")
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def workers() -> list[int]:
    """Processes of this test's cluster in which a job is attended to."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if not (folder / "cmdline").read_bytes().startswith(b"ray::Attendant"):
                continue
            raylet = parent(int(folder.name))
            if parent(raylet) == os.getpid():
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill_one_worker_when(holds: Callable[[], bool]) -> threading.Thread:
    def kill() -> None:
        wait_for(holds)
        wait_for(lambda: bool(workers()))
        os.kill(workers()[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def study(out: Path, launcher: str, capfd: pytest.CaptureFixture[str]) -> tuple[dict, str]:
    """Its JSON, and what it said."""
    recipe = out.with_suffix(".toml")
    recipe.write_text(TINY)
    assert main(["study", str(recipe), "--out", str(out), "--launcher", launcher, "--json"]) == 0
    said = capfd.readouterr()
    return json.loads(said.out), said.err


def test_the_same_table_also_with_a_worker_killed_in_mid_training(
    cluster: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    here, _ = study(tmp_path / "local", "local", capfd)
    there, said = study(tmp_path / "ray", "ray", capfd)
    assert there["table"] == here["table"] and there["done"] == 3 and "was lost" not in said

    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "ray", killed)
    for folder in killed.glob("jobs/grpo_think*"):
        shutil.rmtree(folder)
    metrics = "jobs/grpo_think-mri-0-*/grpo_think-mri-0/metrics.jsonl"
    thread = kill_one_worker_when(lambda: any(p.read_text().count("\n") > 2 for p in killed.glob(metrics)))
    after, said = study(killed, "ray", capfd)
    thread.join()
    assert after["table"] == here["table"]
    assert "grpo_think-mri-0: its worker was lost; started again, 1 of at most 3 times" in said
    (mark,) = killed.glob("jobs/grpo_think-mri-0-[0-9a-f]*/done.json")
    assert json.loads(mark.read_text())["seconds"] is None  # it did not run in one piece
    trained = [
        [json.loads(line) for line in next(out.glob(metrics)).open()] for out in (tmp_path / "local", killed)
    ]
    assert [row["step"] for row in trained[1]] == [row["step"] for row in trained[0]]
    assert [row["loss/total"] for row in trained[1]] == [row["loss/total"] for row in trained[0]]


def run_fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> tuple[Progress, list[str]]:
    said: list[str] = []
    monkeypatch.setattr(ray_launcher, "program", lambda job: words)
    with connected(fake_jobs(), 0) as launcher:
        ended = run_jobs(
            fake_jobs(), Store(tmp_path), launcher, SignalWatch, lambda text, progress: said.append(text)
        )
    return ended, said


def test_a_command_that_fails_is_not_run_again(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, said = run_fake(tmp_path, monkeypatch, ["-c", "print('here'); raise SystemExit(3)"])
    assert ended.failed["first"].exit_code == 3 and ended.failed["first"].tail == ("here",)
    assert set(ended.blocked) == {"left", "right", "last"} and not any("lost" in text for text in said)


def test_a_worker_is_not_lost_for_ever(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_launcher, "RESTARTS", 1)
    log = Store(tmp_path).log(fake_jobs()[0])

    def begun(times: int) -> Callable[[], bool]:
        return lambda: log.exists() and log.read_text().count("begun") == times

    threads = [kill_one_worker_when(begun(times)) for times in (1, 2)]
    ended, said = run_fake(
        tmp_path, monkeypatch, ["-c", "import time; print('begun', flush=True); time.sleep(600)"]
    )
    for thread in threads:
        thread.join()
    assert said[:4] == [
        "queued first",
        said[1],
        "first: its worker was lost; started again, 1 of at most 1 times",
        said[3],
    ]
    assert "its worker was lost 2 times" in " ".join(ended.failed["first"].tail)
    assert not any(thread.is_alive() for thread in threads)


def start_study(study: Path, address: str) -> subprocess.Popen[bytes]:
    environment = {**paths(), "RAY_ADDRESS": address}
    return subprocess.Popen([sys.executable, PROGRAM, str(study), "ray"], env=environment)


def test_a_study_is_killed_then_stopped_then_goes_on(cluster: str, tmp_path: Path) -> None:
    for number, name, code in ((signal.SIGKILL, "first", -9), (signal.SIGTERM, "left", 143)):
        process = start_study(tmp_path, cluster)
        wait_for(lambda name=name: len(steps(tmp_path)[name]) > 1)  # type: ignore[misc]
        process.send_signal(number)
        assert process.wait() == code
    reached = steps(tmp_path)
    time.sleep(0.3)
    assert steps(tmp_path) == reached and not reached["last"]
    assert start_study(tmp_path, cluster).wait() == 0
    assert steps(tmp_path) == WHOLE


def test_a_job_that_fits_on_no_node_is_refused(cluster: str) -> None:
    big = dataclasses.replace(fake_jobs()[0], processes=3)
    with pytest.raises(
        BadInput, match="first takes 3 CPUs of one node, and the largest of the cluster has 2"
    ):
        RayLauncher().check([big])


def test_a_cluster_that_does_not_answer_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(BadInput, match=f"no cluster at RAY_ADDRESS={address}"), connected([], 0):
        pass


def orders(tmp_path: Path, **changed: object) -> Orders:
    job = fake_jobs()[0]
    Store(tmp_path).place(job).mkdir(parents=True)
    given = {
        "study": tmp_path,
        "job": job,
        "words": ("-c", "pass"),
        "folder": tmp_path,
        "versions": ray_launcher._versions(job),
        "environment": {},
    }
    return Orders(**{**given, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"study": Path("/nowhere")}, "no /nowhere/jobs/first-"),
        ({"folder": Path("/nowhere")}, "no /nowhere; it must lie on a file system that all nodes share"),
        ({"versions": {"torch": "0.1"}}, "the study was planned with torch 0.1, here it is "),
    ],
)
def test_a_node_that_cannot_run_the_job_says_why(tmp_path: Path, changed: dict, said: str) -> None:
    ended = Attendant(orders(tmp_path, **changed)).begin()
    assert isinstance(ended, Ended) and ended.exit_code == 2 and said in ended.reason
