"""The base model that ships, behind a real vLLM server, as a row of a study: its greedy answers beside ours.

python benchmarks/vllm_server.py [--questions 300] [--out runs/vllm_server]

Starts vLLM's OpenAI-compatible server (the environment of `make bench-vllm`) on a loopback port with the
checkpoint folder as it ships, runs a study on phantom questions of three modalities with two rows, our engine
and the server, and prints its table and how often the two agree. Phantom questions: agreement is about
software, the accuracies say nothing about medicine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2

from osler.cli import main as osler
from osler.evaluate.stats import wilson_interval
from osler.policy.load import PHANTOM_BASE
from osler.study.results import StudyResults, read_results

ROOT = Path(__file__).resolve().parents[1]
NAME = "phantom-base"
STUDY, COLUMNS, OWN = "phantom_medvlm_r1_table", 3, "zero_shot_think"
BAR = 0.98
START_SECONDS = 1800


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(python: Path, checkpoint: Path, port: int, log: Path) -> Iterator[str]:
    """A vLLM server of one checkpoint; ends with the block, its engine process included."""
    arguments = ["--model", str(checkpoint), "--served-model-name", NAME, "--host", "127.0.0.1"]
    arguments += ["--port", str(port), "--dtype", "float32", "--max-model-len", "1024", "--enforce-eager"]
    # Without this vLLM would take the checkpoint's sampling defaults.
    arguments += ["--generation-config", "vllm", "--limit-mm-per-prompt", '{"image": 1}']
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "benchmarks" / "vllm_site"),
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with log.open("wb") as words:
        server = subprocess.Popen(
            [str(python), "-m", "vllm.entrypoints.openai.api_server", *arguments],
            env=environment,
            stdout=words,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode}; see {log}")
        try:
            if httpx2.get(url, timeout=10).status_code == 200:
                return
        except httpx2.RequestError:
            pass
        time.sleep(1)
    sys.exit(f"the server was not there after {START_SECONDS} s; see {log}")


def study(url: str, out: Path, questions: int) -> StudyResults:
    """The study with both rows, run."""
    row = f'rows.served={{label = "vLLM server", template = "think", model = "openai:{url}#{NAME}"}}'
    arguments = ["study", STUDY, "--out", str(out), row, f'only=["{OWN}", "served"]']
    if osler([*arguments, f"test_questions={questions // COLUMNS}"]) != 0:
        sys.exit("the study failed")
    return read_results(out)


def share(agree: Sequence[bool]) -> str:
    interval = wilson_interval(sum(agree), len(agree))
    bounds = f"{100 * interval.low:.1f}-{100 * interval.high:.1f}"
    return f"{100 * sum(agree) / len(agree):.1f} % (95 % interval {bounds}, n = {len(agree)})"


def report(results: StudyResults) -> bool:
    """Print the agreement; whether it reaches the bar."""
    own, served = (
        {p.question_id: p for line in results.lines if line.row == name for p in line.predictions}
        for name in (OWN, "served")
    )
    assert served.keys() == own.keys()
    same = [served[i].extraction.index == own[i].extraction.index for i in own]
    print(f"same choice        {share(same)}")
    print(f"same text          {share([served[i].text == own[i].text for i in own])}")
    print(f"same token count   {share([served[i].num_tokens == own[i].num_tokens for i in own])}")
    return sum(same) >= BAR * len(same)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/vllm_server"))
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-vllm/bin/python", help="where vLLM is")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with serving(options.python, PHANTOM_BASE, free_port(), options.out / "server.log") as url:
        print(f"server: there after {time.monotonic() - started:.0f} s", file=sys.stderr)
        results = study(url, options.out / "study", options.questions)
    return 0 if report(results) else 1


if __name__ == "__main__":
    sys.exit(main())
