"""A process between a Ray worker and a job's command, so that the two can die apart.

    python -m osler.study.keeper STUDY JOB WORD...

It takes the job's lock on the node where the job runs, runs `python WORD...`, marks the job done, and lets go
when the last descendant of the command has gone. The worker holds the other end of its standard input: a byte
asks to stop, and the end of the file says that the worker is dead, whoever killed it; the command is then
asked to save and leaves. So a job whose worker died can be started again anywhere at once: it waits for the
lock.

Standard output tells the worker, a JSON object a line: {"pid": command}, {"ended": code, "seconds": seconds}.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from osler.study.graph import Job, job_from_json
from osler.study.store import Held, Store

STOP, KILL = b"t", b"k"
SAVE_SECONDS = 600.0  # what a command without a worker gets to save in; nobody is left to press Ctrl-C again
_POLL_SECONDS = 0.1
_SET_CHILD_SUBREAPER = 36  # of prctl(2)


class _Worker:
    """The other end of standard input and output."""

    def __init__(self) -> None:
        self.is_lost = False

    def asks(self) -> bytes:
        """STOP or KILL, or b"" where nothing came in a moment; STOP once where the worker is lost."""
        if self.is_lost:
            time.sleep(_POLL_SECONDS)
            return b""
        ready, _, _ = select.select([0], [], [], _POLL_SECONDS)
        if not ready:
            return b""
        request = os.read(0, 1)
        self.is_lost = not request
        return request or STOP

    def tell(self, **message: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # a lost worker; its successor reads what is on disk
            os.write(1, json.dumps(message).encode() + b"\n")


def main() -> None:
    """Leave the worker's family, keep one job, tell how it ended."""
    # A Ray worker that leaves in good order kills its own children at once; a grandchild it leaves alone.
    if os.fork():
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # Ray blocks SIGINT, and children inherit that
    _adopt_descendants()
    study, job, *words = sys.argv[1:]
    _keep(Store(Path(study)), job_from_json(json.loads(job)), words, _Worker())


def _keep(store: Store, job: Job, words: Sequence[str], worker: _Worker) -> None:
    held = _wait_for_lock(store, job, worker)
    if held is None:
        worker.tell(ended=128 + signal.SIGTERM, seconds=None)
        return
    if store.lacks_only_the_mark(job):
        code, seconds = 0, store.measured_seconds(job)
    else:
        code, seconds = _run(store, job, words, held, worker)
    if code == 0:
        store.mark_done(job, seconds)
    held.release()
    worker.tell(ended=code, seconds=seconds)


def _wait_for_lock(store: Store, job: Job, worker: _Worker) -> Held | None:
    """The lock, once whoever has it lets go; None where the worker asked to stop before that."""
    said = False
    while (held := store.hold(job)) is None:
        if not said:
            print(
                f"process {store.holder(job)} still works on {job.name}; waiting", file=sys.stderr, flush=True
            )
            said = True
        if worker.asks():
            return None
    return held


def _run(
    store: Store, job: Job, words: Sequence[str], held: Held, worker: _Worker
) -> tuple[int, float | None]:
    """Exit code, and the seconds of a command that ran in one piece."""
    in_one_piece, started = not store.has_begun(job), time.monotonic()
    was_asked, kill_at = False, float("inf")
    with store.log(job).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(held.fd,),  # should this process be killed, the command keeps the lock
        )
    held.say_who(process.pid)
    worker.tell(pid=process.pid)
    while process.poll() is None:
        request = worker.asks()
        if worker.is_lost and request:
            kill_at = time.monotonic() + SAVE_SECONDS
        if request == KILL or time.monotonic() > kill_at:
            os.killpg(process.pid, signal.SIGKILL)
        elif request == STOP and not was_asked:  # a second signal would interrupt the saving
            was_asked = True
            os.killpg(process.pid, signal.SIGTERM)
    _kill_what_is_left()
    seconds = time.monotonic() - started
    return process.returncode, seconds if in_one_piece else None


def _adopt_descendants() -> None:
    """Processes whose parent dies become children of this one, and not of init."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _kill_what_is_left() -> None:
    """End what the command left behind: trainers whose torchrun was killed would go on in the run folder."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while pids := [int(word) for word in children.read_text().split()]:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
