"""How long each study of the papers takes on one data-centre GPU: predicted, printed as a table.

    python benchmarks/study_times.py

Counts are those of Med-R1's released split files; operations are those of Qwen2-VL-2B (`osler.costs`), at the
rate that `osler study --dry-run` takes for a GPU nobody has measured (`osler.study.predict`).
"""

from __future__ import annotations

from pathlib import Path

from osler.costs.shape import QWEN2_VL_2B
from osler.study.inputs import Inputs
from osler.study.plan import models_of, plan
from osler.study.predict import estimates
from osler.study.recipe import load_study, study_names
from osler.study.store import Store

# (train, test) questions of the released files; MRI and disease diagnosis by subtraction from the whole.
COUNTS: dict[str, dict[str, tuple[int, int]]] = {
    "modality": {
        "ct": (12567, 3241),
        "mri": (25507, 6370),
        "xray": (6301, 1615),
        "ultrasound": (8917, 2074),
        "dermoscopy": (5373, 1306),
        "fundus": (4300, 1098),
        "oct": (3798, 848),
        "microscopy": (4570, 1110),
    },
    "question_type": {
        "anatomy_identification": (13119, 3329),
        "disease_diagnosis": (44329, 11058),
        "lesion_grading": (1662, 436),
        "modality_recognition": (9173, 2392),
        "other_biological_attributes": (2794, 704),
    },
}


def row(name: str) -> str:
    """One line of the table: jobs, and hours of one GPU in training and in testing."""
    study = load_study(name, ["data.train=TRAIN", "data.test=TEST", "released=RELEASED"])
    counts, models = COUNTS[study.axis], list(dict.fromkeys(models_of(study)))
    inputs = Inputs(
        digests={},
        train_counts={value: train for value, (train, _) in counts.items()},
        test_counts={value: test for value, (_, test) in counts.items()},
        models=dict.fromkeys(models, ""),
        shapes=dict.fromkeys(models, QWEN2_VL_2B),
    )
    jobs = plan(study, inputs).jobs
    found = estimates(jobs, Store(Path("nowhere")), (), "cuda")
    hours = {
        kind: sum(found[job.name].seconds for job in jobs if job.kind == kind) / 3600
        for kind in ("train", "evaluate")
    }
    return f"| `{name}` | {len(jobs)} | {hours['train']:.0f} | {hours['evaluate']:.0f} |"


def main() -> None:
    print("| study | jobs | hours of training, predicted | hours of testing, predicted |")
    print("|---|---|---|---|")
    for name in study_names():
        if not name.startswith("phantom_"):
            print(row(name))


if __name__ == "__main__":
    main()
