"""That the phantom's text gives nothing away: the blind baseline, modality by modality.

    python benchmarks/phantom_blind.py

Fitted on 600 training questions of one modality (seed 0), tested on 5,000 fresh ones (seed 1); questions are
drawn before pixels, so nothing is rendered. `tests/test_phantom_questions.py` demands an upper 95 % bound
below 28 %.
"""

from __future__ import annotations

import time

from osler.audit.blind import blind_accuracy
from osler.evaluate.stats import wilson_interval
from osler.phantom.questions import IMAGINGS, NUM_CHOICES, draw_questions

TRAIN_IMAGES, TEST_IMAGES = 300, 2500  # two questions each
LINE = "{:<12} {:>7} {:>7} {:>7} {:>9} {:>15} {:>8}"


def main() -> None:
    print(LINE.format("modality", "n train", "n test", "chance", "accuracy", "95 % Wilson", "seconds"))
    for modality in IMAGINGS:
        started = time.perf_counter()
        train = draw_questions(modality, TRAIN_IMAGES, 0, "train")[1]
        test = draw_questions(modality, TEST_IMAGES, 1, "test")[1]
        accuracy = blind_accuracy(train, test)
        interval = wilson_interval(round(accuracy * len(test)), len(test))
        cells = (
            modality.value,
            f"{len(train):,}",
            f"{len(test):,}",
            f"{100 / NUM_CHOICES:.1f}",
            f"{100 * accuracy:.2f}",
            f"{100 * interval.low:.2f}-{100 * interval.high:.2f}",
            f"{time.perf_counter() - started:.1f}",
        )
        print(LINE.format(*cells), flush=True)


if __name__ == "__main__":
    main()
