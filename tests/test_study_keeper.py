"""The process that keeps a job's command on behalf of a Ray worker, without Ray: locks, and who dies when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from osler.study.graph import Job, job_to_json
from osler.study.keeper import KILL, STOP
from osler.study.store import Store
from study_jobs import fake_jobs, paths

JOB = fake_jobs()[0]
# Waits for SIGTERM, and takes a while to save.
SAVES = """
import signal, sys, time
from pathlib import Path
def save(number, frame):
    Path(sys.argv[1], "asked").touch(exist_ok=False)
    time.sleep(0.3); Path(sys.argv[1], "saved").touch(); sys.exit(143)
signal.signal(signal.SIGTERM, save)
Path(sys.argv[1], "ready").touch()
time.sleep(600)
"""


class Keeper:
    """A keeper whose worker is this process."""

    def __init__(self, study: Path, words: list[str], job: Job = JOB) -> None:
        Store(study).place(job).mkdir(parents=True, exist_ok=True)
        arguments = [str(study), json.dumps(job_to_json(job)), *words]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "osler.study.keeper", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=paths(),
        )
        self.process.wait(timeout=120)  # it goes on without its parent

    def ask(self, request: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(request)
        self.process.stdin.flush()

    def lose_worker(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def told(self) -> dict:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and only waits for its parent does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def saving(tmp_path: Path) -> tuple[Keeper, int]:
    """A keeper whose command has begun, and the command's process id."""
    keeper = Keeper(tmp_path, ["-c", SAVES, str(tmp_path)])
    pid = keeper.told()["pid"]
    wait_until((tmp_path / "ready").exists)
    return keeper, pid


def is_free(study: Path) -> bool:
    held = Store(study).hold(JOB)
    if held is not None:
        held.release()
    return held is not None


def test_it_runs_the_command_marks_it_done_and_lets_go(tmp_path: Path) -> None:
    store = Store(tmp_path)
    program = "import sys; from pathlib import Path; Path(sys.argv[1]).mkdir(); print('said')"
    keeper = Keeper(tmp_path, ["-c", program, str(store.result(JOB))])
    assert keeper.told()["pid"] > 0
    ended = keeper.told()
    assert ended["ended"] == 0 and ended["seconds"] > 0
    assert store.is_done(JOB) and is_free(tmp_path) and store.tail(JOB) == ("said",)
    # Done meanwhile by someone else: nothing is run, and the seconds are those of the one who did it.
    assert Keeper(tmp_path, ["-c", "1/0"]).told() == {"ended": 0, "seconds": store.measured_seconds(JOB)}


def test_a_command_that_fails_is_told_and_not_marked(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, ["-c", "raise SystemExit(3)"])
    keeper.told()
    assert keeper.told()["ended"] == 3
    assert not Store(tmp_path).is_done(JOB) and is_free(tmp_path)


@pytest.mark.parametrize("how", ["asked", "worker lost", "asked, then worker lost"])
def test_the_command_saves_before_the_lock_is_free(tmp_path: Path, how: str) -> None:
    keeper, pid = saving(tmp_path)
    assert not is_free(tmp_path) and Store(tmp_path).holder(JOB).startswith(f"{pid} on ")
    if how == "asked":
        keeper.ask(STOP)
    elif how == "asked, then worker lost":
        keeper.ask(STOP)
        keeper.lose_worker()
    else:
        keeper.lose_worker()
    wait_until(lambda: is_free(tmp_path))
    assert (tmp_path / "saved").exists() and not is_alive(pid)
    assert keeper.told()["ended"] == 143


def test_a_second_keeper_waits_for_the_first_ones_command(tmp_path: Path) -> None:
    first, pid = saving(tmp_path)
    second = Keeper(tmp_path, ["-c", f"import os; print(os.path.exists('/proc/{pid}/fd/0'))"])
    first.lose_worker()
    second.told()
    assert second.told()["ended"] == 0
    assert Store(tmp_path).tail(JOB) == ("False",)


def test_it_can_be_stopped_while_it_waits(tmp_path: Path) -> None:
    held = Store(tmp_path).hold(JOB)
    assert held is not None
    waiting = Keeper(tmp_path, ["-c", "1/0"])
    waiting.ask(STOP)
    assert waiting.told() == {"ended": 143, "seconds": None}
    held.release()


def test_what_does_not_save_can_be_killed(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    keeper = Keeper(tmp_path, ["-c", f"{deaf}; print('deaf', flush=True); time.sleep(600)"])
    keeper.told()
    wait_until(lambda: Store(tmp_path).tail(JOB) == ("deaf",))
    keeper.ask(STOP + KILL)
    assert keeper.told()["ended"] == -signal.SIGKILL


def test_descendants_do_not_outlive_the_lock(tmp_path: Path) -> None:
    """As trainers would whose torchrun was killed: they have sessions of their own, and no lock."""
    orphan = "import os, subprocess; pid = subprocess.Popen(['sleep', '600'], start_new_session=True).pid"
    keeper = Keeper(tmp_path, ["-c", f"{orphan}; print(pid, flush=True); os.kill(os.getpid(), 9)"])
    keeper.told()
    assert keeper.told()["ended"] == -signal.SIGKILL
    (pid,) = Store(tmp_path).tail(JOB)
    assert not is_alive(int(pid))


def test_a_command_that_lost_its_keeper_keeps_the_lock(tmp_path: Path) -> None:
    _, pid = saving(tmp_path)
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: not is_alive(parent))
    assert is_alive(pid) and not is_free(tmp_path)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: is_free(tmp_path))


def test_it_leaves_the_workers_family(tmp_path: Path) -> None:
    """Ray kills the children of a worker that leaves in good order; the keeper must be none of them."""
    keeper, pid = saving(tmp_path)
    mine = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    assert parent not in mine
    keeper.ask(STOP)
    assert keeper.told()["ended"] == 143
