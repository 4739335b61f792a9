"""The base model that ships, behind a real vLLM server, as a row: its greedy answers beside ours.

python benchmarks/vllm_server.py [--questions 300] [--out runs/vllm_server]

Draws a phantom benchmark, starts vLLM's OpenAI-compatible server (the environment of `make bench-vllm`) on a
loopback port with the checkpoint folder as it ships, asks it through `osler evaluate --model openai:…`, asks
the same checkpoint through our engine, and prints how often the two agree. Phantom questions: agreement is
about software, the accuracies say nothing about medicine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
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
from osler.evaluate.predictions import read_predictions
from osler.evaluate.stats import wilson_interval
from osler.evaluate.summary import read_summaries
from osler.policy.load import PHANTOM_BASE
from osler.records import Prediction

ROOT = Path(__file__).resolve().parents[1]
NAME = "phantom-base"
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


def evaluate(model: str, data: Path, out: Path, questions: int) -> dict[str, Prediction]:
    arguments = ["evaluate", "--model", model, "--data", str(data), "--out", str(out), "--template", "think"]
    arguments += ["--max-completion-tokens", "64", "--limit", str(questions), "--json"]
    with contextlib.redirect_stdout(io.StringIO()):
        failed = osler(arguments)
    if failed:
        sys.exit(f"{model}: the evaluation failed")
    (file,) = (out / "predictions").glob("*.jsonl")
    return {p.question_id: p for p in read_predictions(file).predictions}


def share(agree: Sequence[bool]) -> str:
    interval = wilson_interval(sum(agree), len(agree))
    bounds = f"{100 * interval.low:.1f}-{100 * interval.high:.1f}"
    return f"{100 * sum(agree) / len(agree):.1f} % (95 % interval {bounds}, n = {len(agree)})"


def report(out: Path, served: dict[str, Prediction], own: dict[str, Prediction]) -> bool:
    assert served.keys() == own.keys()
    same = [served[i].extraction.index == own[i].extraction.index for i in own]
    print(f"same choice        {share(same)}")
    print(f"same text          {share([served[i].text == own[i].text for i in own])}")
    print(f"same token count   {share([served[i].num_tokens == own[i].num_tokens for i in own])}")
    for folder in ("served", "own"):
        (row,) = [summary.overall for summary in read_summaries(out / folder)]
        bounds = f"{100 * row.interval.low:.1f}-{100 * row.interval.high:.1f}"
        blind = "none" if row.blind_accuracy is None else f"{100 * row.blind_accuracy:.1f}"
        print(
            f"{folder:<8} accuracy {100 * row.accuracy:.1f} % ({bounds}, n = {row.n}), "
            f"chance {100 * row.chance:.1f}, blind {blind}"
        )
    return sum(same) >= BAR * len(same)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--images", type=int, default=160, help="of each modality in the benchmark drawn")
    parser.add_argument("--out", type=Path, default=Path("runs/vllm_server"))
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-vllm/bin/python", help="where vLLM is")
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    phantom = out / "phantom"
    if not phantom.exists() and osler(["phantom", str(phantom), "--images", str(options.images)]) != 0:
        return 1
    started = time.monotonic()
    own = evaluate(NAME, phantom / "test", out / "own", options.questions)
    print(f"our engine: {time.monotonic() - started:.0f} s, loading included", file=sys.stderr)
    started = time.monotonic()
    with serving(options.python, PHANTOM_BASE, free_port(), out / "server.log") as url:
        print(f"server: there after {time.monotonic() - started:.0f} s", file=sys.stderr)
        started = time.monotonic()
        served = evaluate(f"openai:{url}#{NAME}", phantom / "test", out / "served", options.questions)
        print(f"server: {time.monotonic() - started:.0f} s for the questions", file=sys.stderr)
    return 0 if report(out, served, own) else 1


if __name__ == "__main__":
    sys.exit(main())
