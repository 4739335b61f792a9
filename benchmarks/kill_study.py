"""A study that is killed with SIGKILL at random moments must end with the table of one that was left alone.

    python benchmarks/kill_study.py OUT [SEED]

Runs `phantom_mini` once without interruption into OUT/whole, then into OUT/killed, where the study is killed
five times after a random part of the seconds that the whole one took; each time its jobs are killed too, or
live on without it, by lot. Compares every answer of both, not only the table. Exit code 1 where any differs.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

KILLS = 5
STUDY = "phantom_mini"


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "osler", "study", STUDY, "--out", str(out), "--json"]


def run_whole(out: Path) -> tuple[dict[str, Any], float]:
    """The study's JSON, and the seconds it took."""
    start = time.monotonic()
    done = subprocess.run(command(out), stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout), time.monotonic() - start


def kill_once(out: Path, after_seconds: float, jobs_too: bool) -> str:
    """Start the study, kill it, and say what it had reached."""
    process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=after_seconds)
        return "had ended before it was killed"
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed = sum(kill_holder(lock) for lock in out.glob("jobs/*/lock")) if jobs_too else 0
    done = len(list(out.glob("jobs/*/done.json")))
    return (
        f"{done} jobs done; {killed} jobs killed with it"
        if jobs_too
        else f"{done} jobs done; its jobs live on"
    )


def kill_holder(lock: Path) -> bool:
    """Kill the process that works on a job, with all that it started; False where none does."""
    text = lock.read_text(encoding="utf-8").strip()
    if not text or (lock.parent / "done.json").exists():
        return False
    try:
        os.killpg(int(text.split()[0]), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def answers(out: Path) -> dict[str, list[str]]:
    """Every stored answer of every model, in the order of the question's id."""
    found = {}
    for path in sorted(out.glob("jobs/*/*/predictions/*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
        found[path.parent.parent.name] = sorted(
            json.dumps({key: row[key] for key in ("question_id", "text", "extraction", "outcome")})
            for row in rows
        )
    return found


def main() -> int:
    out, lot = Path(sys.argv[1]), random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    whole, seconds = run_whole(out / "whole")
    print(f"left alone: {seconds:.0f} s, {whole['done']} jobs done", flush=True)
    for number in range(1, KILLS + 1):
        after = lot.uniform(0.05, 0.6) * seconds / 2
        said = kill_once(out / "killed", after, jobs_too=lot.random() < 0.6)
        print(f"kill {number} after {after:.0f} s: {said}", flush=True)
    again, more = run_whole(out / "killed")
    print(f"after the last kill: {more:.0f} s, {again['done']} jobs done", flush=True)
    same_table = whole["table"] == again["table"]
    left, right = answers(out / "whole"), answers(out / "killed")
    differing = sum(a != b for name in left for a, b in zip(left[name], right.get(name, []), strict=True))
    total = sum(map(len, left.values()))
    print(f"tables identical: {same_table}; answers that differ: {differing} of {total}")
    return 0 if same_table and not differing and left.keys() == right.keys() else 1


if __name__ == "__main__":
    sys.exit(main())
