"""Jobs on a Ray cluster: one actor per job, which asks Ray for its devices and has a keeper run the command.

    study --- actor in a Ray worker --- keeper (lock) --- osler grpo ...

Where the worker dies, Ray tells the study, the keeper asks the command to save, and the study starts the job
again: on any node, where it waits for the lock and goes on from the newest checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from osler import __version__
from osler.errors import BadInput
from osler.study.graph import Job, job_to_json, versions
from osler.study.keeper import KILL, STOP
from osler.study.local import program
from osler.study.run import Ended
from osler.study.store import Held, Store

RESTARTS = 3  # of one job in one study, where its worker was lost
_LOST = -int(signal.SIGKILL)  # as subprocess writes it
_WAIT_SECONDS = 0.5
_CONNECT_SECONDS = 20.0


class KeeperLost(Exception):
    """The keeper ended without saying how the command did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a worker needs to know to run one job."""

    study: Path
    job: Job
    words: tuple[str, ...]  # that Python is given
    folder: Path  # to run in: paths of recipes and questions may be relative
    versions: Mapping[str, str]  # that the job's key was made with
    environment: Mapping[str, str]  # beside that of the node


class Attendant:
    """The actor: starts the keeper of one job, listens to it, and hands on what it is asked."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders

    def begin(self) -> str | Ended:
        """Start; the name of the node, or why the job cannot run here."""
        orders, node = self.orders, socket.gethostname()
        store = Store(orders.study)
        for folder in (orders.folder, store.place(orders.job)):
            if not folder.is_dir():
                return Ended(
                    2, None, f"{node}: no {folder}; it must lie on a file system that all nodes share"
                )
        if differing := _differences(orders.versions, _versions(orders.job)):
            return Ended(2, None, f"{node}: the study was planned with {differing}")
        job = json.dumps(job_to_json(orders.job))
        try:
            with store.log(orders.job).open("ab") as log:
                self.keeper = subprocess.Popen(
                    [sys.executable, "-m", "osler.study.keeper", str(orders.study), job, *orders.words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                    cwd=orders.folder,
                    env={**os.environ, **orders.environment},
                )
        except OSError as error:
            return Ended(2, None, f"{node}: {error}")
        self.keeper.wait()  # the keeper goes on as a child of nobody
        return node

    def wait(self) -> Ended:
        """How the job ended. Raises KeeperLost where the keeper was killed."""
        assert self.keeper.stdout is not None
        pid = 0
        for line in self.keeper.stdout:
            message = json.loads(line)
            if "ended" in message:
                return Ended(message["ended"], message["seconds"])
            pid = message["pid"]
        if pid:  # the command has lost its keeper, and keeps the lock until it has saved
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGTERM)
        raise KeeperLost(f"{socket.gethostname()}: the keeper of {self.orders.job.name} is gone")

    def ask(self, request: bytes) -> None:
        assert self.keeper.stdin is not None
        with suppress(BrokenPipeError):  # it has ended meanwhile
            self.keeper.stdin.write(request)
            self.keeper.stdin.flush()


def _versions(job: Job) -> dict[str, str]:
    return {"osler": __version__, **versions(job.kind)}


def _differences(planned: Mapping[str, str], here: Mapping[str, str]) -> str:
    """
    >>> _differences({"osler": "1.0", "torch": "2.13"}, {"osler": "1.0", "torch": "2.12"})
    'torch 2.13, here it is 2.12'
    """
    return "; ".join(
        f"{name} {version}, here it is {here[name]}"
        for name, version in planned.items()
        if here[name] != version
    )


@dataclass
class _Running:
    orders: Orders
    actor: Any
    answer: Any  # of begin(), later of wait()
    has_begun: bool = False
    starts: int = 1


class RayLauncher:
    """Hands every job to Ray, which places it; at most `workers` processes, by default as many as fit."""

    def __init__(self, workers: int = 0) -> None:
        import ray

        self._ray = ray
        self._workers = workers
        self._actor = ray.remote(Attendant)
        self._resource = "GPU" if ray.cluster_resources().get("GPU") else "CPU"
        self._running: dict[str, _Running] = {}
        self._is_stopping = False
        self.device = "cuda" if self._resource == "GPU" else "cpu"
        self.slots = self._count_slots()

    def check(self, jobs: Sequence[Job]) -> None:
        """Raises BadInput for a job that fits on no node."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        largest = int(max(node.get(self._resource, 0) for node in nodes))
        for job in jobs:
            if job.processes > largest:
                raise BadInput(
                    f"{job.name} takes {job.processes} {self._resource}s of one node, and the largest of the "
                    f"cluster has {largest}; lower processes in the recipe"
                )

    def start(self, job: Job, arguments: Sequence[str], store: Store, held: Held) -> str:
        """Queue the job; its lock is let go here and taken again where it runs."""
        store.log(job).touch()  # seen by this node's own cache from now on, wherever it is written
        held.release()
        on_cpu = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        orders = Orders(
            study=store.study,
            job=job,
            words=(*program(job), *arguments),
            folder=Path.cwd(),
            versions=_versions(job),
            environment={} if self._resource == "GPU" else on_cpu,
        )
        self._running[job.name] = self._submit(orders)
        return f"queued {job.name}"

    def poll(self, say: Callable[[str], None]) -> dict[str, Ended]:
        """The jobs that ended since the last call; one whose worker was lost is started again."""
        self.slots = self._count_slots()  # nodes join and leave
        ended = {}
        answers = [one.answer for one in self._running.values()]
        ready, _ = self._ray.wait(answers, num_returns=len(answers), timeout=0) if answers else ([], [])
        for name, one in list(self._running.items()):
            if one.answer in ready and (found := self._answer(name, say)) is not None:
                del self._running[name]
                self._ray.kill(one.actor)
                ended[name] = found
        return ended

    def stop(self) -> None:
        """Ask every command to save and leave, and wait until all have; a second signal kills them."""
        self._is_stopping = True
        for one in self._running.values():
            if not one.has_begun:
                self._ray.kill(one.actor)
        self._ask_all(STOP)
        try:
            self._wait_for_all()
        except KeyboardInterrupt:
            self._ask_all(KILL)
            self._wait_for_all()

    def _count_slots(self) -> int:
        return self._workers or int(self._ray.cluster_resources().get(self._resource, 1))

    def _submit(self, orders: Orders, starts: int = 1) -> _Running:
        devices = orders.job.processes
        needs = {"num_gpus": devices, "num_cpus": 0} if self._resource == "GPU" else {"num_cpus": devices}
        # Two at a time: one waits for the end, the other hands on what is asked. Restarts are ours to count.
        options = {**needs, "max_concurrency": 2, "max_restarts": 0}
        actor: Any = self._actor.options(**options).remote(orders)
        return _Running(orders, actor, actor.begin.remote(), starts=starts)

    def _answer(self, name: str, say: Callable[[str], None]) -> Ended | None:
        """How the job ended; None where it goes on."""
        one = self._running[name]
        try:
            answer = self._ray.get(one.answer)
        except (self._ray.exceptions.RayActorError, KeeperLost) as error:
            return self._lost(name, error, say)
        if isinstance(answer, Ended):
            return answer
        if self._is_stopping:
            return Ended(_LOST, None)
        one.has_begun, one.answer = True, one.actor.wait.remote()
        say(f"{name} runs on {answer}")
        return None

    def _lost(self, name: str, error: Exception, say: Callable[[str], None]) -> Ended | None:
        one = self._running[name]
        self._ray.kill(one.actor)  # it may only have been out of reach
        if self._is_stopping:
            return Ended(_LOST, None)
        if one.starts > RESTARTS:
            return Ended(
                _LOST, None, f"its worker was lost {one.starts} times; the last time Ray said: {error}"
            )
        say(f"{name}: its worker was lost; started again, {one.starts} of at most {RESTARTS} times")
        self._running[name] = self._submit(one.orders, one.starts + 1)
        return None

    def _ask_all(self, request: bytes) -> None:
        for one in self._running.values():
            if one.has_begun:
                one.actor.ask.remote(request)

    def _wait_for_all(self) -> None:
        answers = [one.answer for one in self._running.values()]
        while answers:
            _, answers = self._ray.wait(answers, num_returns=len(answers), timeout=_WAIT_SECONDS)


def require_ray() -> None:
    """Raises BadInput where Ray is not installed."""
    if find_spec("ray") is None:
        raise BadInput("--launcher ray: Ray is not installed here; pip install 'osler[ray]'")


def _check_reachable(address: str) -> None:
    """Raises BadInput where nothing listens at HOST:PORT, at once; Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise BadInput(f"--launcher ray: no cluster at RAY_ADDRESS={address}: {error}") from error


@contextmanager
def connected(jobs: Sequence[Job], workers: int) -> Iterator[RayLauncher]:
    """A launcher on the cluster that Ray finds (RAY_ADDRESS, else one of this machine, else a new local one).

    Raises BadInput where Ray is not installed, the cluster does not answer, or a job fits on no node.
    """
    require_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported unless someone asked for it
    import ray

    is_ours = not ray.is_initialized()
    if is_ours:
        _check_reachable(os.environ.get("RAY_ADDRESS", ""))
        handler = signal.getsignal(signal.SIGTERM)  # Ray puts its own in the place
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises bare ones, too
            where, said = os.environ.get("RAY_ADDRESS", "not set"), str(error).splitlines()[0]
            raise BadInput(f"--launcher ray: no cluster, RAY_ADDRESS is {where}; Ray says: {said}") from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
    try:
        launcher = RayLauncher(workers)
        launcher.check(jobs)
        yield launcher
    finally:
        if is_ours:
            ray.shutdown()
