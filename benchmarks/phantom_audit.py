"""Whether the audit finds what phantom plants, and nothing else: five seeds of each.

    python benchmarks/phantom_audit.py [--seeds 5] [--images 100]

Every seed draws three benchmarks of all eight modalities (nothing planted, leak, shortcut) into a temporary
folder and audits test against train. Printed are the checks that rose to warning or fault, and in how many of
the scopes (all test questions, each modality). Expected: nothing; the two image overlaps, and what follows
where the text of a leaked question is in both parts, too; the text-only rules.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from osler.audit.findings import Level
from osler.audit.run import audit
from osler.phantom.benchmark import write_benchmark

IMAGE_CHECKS = {"image_overlap", "image_question_overlap"}
# A leaked question stands in training word by word: rules that read text are right about it more often.
LEAKED_TEXT = {"blind_baseline", "stem_lookup", "option_prior"}
TEXT_CHECKS = {"wrong_never_right", "option_prior", "stem_lookup", "blind_baseline"}
# The planted wrong choices carry a word in front, so their form and frequency may tell, too.
SIDE_EFFECTS = {"odd_one_out", "length", "label_free_prior"}


def raised(plant: str | None, seed: int, images: int) -> tuple[Counter[str], int]:
    """Check -> scopes in which it is a warning or a fault; and how many findings could have been one."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "phantom"
        write_benchmark(out, images, seed, plant)
        report = audit(str(out / "train"), str(out / "test"))
    found = [f for f in report.findings if f.level in (Level.FAULT, Level.WARNING)]
    judged = sum(f.level is not Level.NOTE for f in report.findings)
    return Counter(f.check for f in found), judged


def as_expected(plant: str | None, found: Counter[str]) -> bool:
    if plant is None:
        return not found
    if plant == "leak":
        return IMAGE_CHECKS <= set(found) <= IMAGE_CHECKS | LEAKED_TEXT
    return TEXT_CHECKS <= set(found) <= TEXT_CHECKS | SIDE_EFFECTS


def main() -> int:
    parser = argparse.ArgumentParser(description="Planted faults and the audit.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=100)
    given = parser.parse_args()
    failed = false_alarms = judged_clean = 0
    for plant in (None, "leak", "shortcut"):
        for seed in range(given.seeds):
            found, judged = raised(plant, seed, given.images)
            ok = as_expected(plant, found)
            failed += not ok
            if plant is None:
                judged_clean += judged
                false_alarms += found.total()
            checks = ", ".join(f"{check} in {count}" for check, count in sorted(found.items())) or "nothing"
            verdict = "as expected" if ok else "NOT AS EXPECTED"
            print(f"{plant or 'nothing':<9} seed {seed}: {verdict}: {checks}", flush=True)
    print(f"{given.seeds} clean audits: {false_alarms} false alarms in {judged_clean} judged findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
