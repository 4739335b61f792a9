"""The literal labels of OmniMedVQA and of the papers' file names, and what they mean here.

Source: the eight `modality_type` and five `question_type` values of OmniMedVQA's open-access part, as
they stand in its files (the OCT label has no closing bracket, the MRI label a stray hyphen), and the
names of Med-R1's released split files, which are the only place where those say what they hold.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from osler.records import Modality, QuestionType

MODALITY_LABELS: dict[Modality, str] = {
    Modality.CT: "CT(Computed Tomography)",
    Modality.MRI: "MR (Mag-netic Resonance Imaging)",
    Modality.XRAY: "X-Ray",
    Modality.ULTRASOUND: "ultrasound",
    Modality.DERMOSCOPY: "Dermoscopy",
    Modality.FUNDUS: "Fundus Photography",
    Modality.OCT: "OCT (Optical Coherence Tomography",
    Modality.MICROSCOPY: "Microscopy Images",
}

QUESTION_TYPE_LABELS: dict[QuestionType, str] = {
    QuestionType.MODALITY_RECOGNITION: "Modality Recognition",
    QuestionType.ANATOMY_IDENTIFICATION: "Anatomy Identification",
    QuestionType.DISEASE_DIAGNOSIS: "Disease Diagnosis",
    QuestionType.LESION_GRADING: "Lesion Grading",
    QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES: "Other Biological Attributes",
}

# Other spellings in use: Med-R1's short file names, and OmniMedVQA's two odd labels written properly.
_OTHER_MODALITY_LABELS: dict[str, Modality] = {
    "fundus": Modality.FUNDUS,
    "microscopy": Modality.MICROSCOPY,
    "oct (optical coherence tomography)": Modality.OCT,
    "mr (magnetic resonance imaging)": Modality.MRI,
    "ct (computed tomography)": Modality.CT,
}

# Data sets of OmniMedVQA's open-access part that hold one modality only. RadImageNet (CT, MRI and
# ultrasound) and "OCT & X-Ray 2017" hold several, so their names say nothing.
_DATASETS: dict[Modality, tuple[str, ...]] = {
    Modality.CT: ("Chest CT Scan", "Covid CT", "SARS-CoV-2 CT-scan"),
    Modality.XRAY: (
        "COVIDx CXR-4",
        "Chest X-Ray PA",
        "CoronaHack",
        "Covid-19 tianchi",
        "Covid19 heywhale",
        "Knee Osteoarthritis",
        "MIAS",
        "Mura",
        "Pulmonary Chest MC",
        "Pulmonary Chest Shenzhen",
        "RUS CHN",
    ),
    Modality.DERMOSCOPY: (
        "Fitzpatrick 17k",
        "ISBI2016",
        "ISIC2018",
        "ISIC2019",
        "ISIC2020",
        "Monkeypox Skin Image 2022",
        "PAD-UFES-20",
    ),
    Modality.FUNDUS: (
        "ACRIMA",
        "Adam Challenge",
        "DRIMDB",
        "DeepDRiD",
        "Diabetic Retinopathy",
        "JSIEC",
        "OLIVES",
        "PALM2019",
        "Yangxi",
    ),
    Modality.OCT: ("Retinal OCT-C8",),
    Modality.MICROSCOPY: (
        "ALL Challenge",
        "BioMediTech",
        "Blood Cell",
        "BreakHis",
        "CRC100k",
        "HuSHeM",
        "MAlig Lymph",
        "MHSMA",
        "NLM- Malaria Data",
    ),
}


def _key(label: str) -> str:
    return " ".join(label.split()).casefold()


_MODALITIES: dict[str, Modality] = {
    **{_key(label): modality for modality, label in MODALITY_LABELS.items()},
    **{modality.value: modality for modality in Modality},
    **_OTHER_MODALITY_LABELS,
}
_QUESTION_TYPES: dict[str, QuestionType] = {
    **{_key(label): question_type for question_type, label in QUESTION_TYPE_LABELS.items()},
    **{question_type.value: question_type for question_type in QuestionType},
}
_DATASET_MODALITIES: dict[str, Modality] = {
    _key(name): modality for modality, names in _DATASETS.items() for name in names
}
_SPLIT_ENDING = re.compile(r"(?:_filtered)?_(train|validation|test)\Z")


def find_modality(label: str) -> Modality | None:
    """The modality a label names (white space and case do not matter), or None.

    >>> find_modality("OCT (Optical Coherence Tomography")
    <Modality.OCT: 'oct'>
    """
    return _MODALITIES.get(_key(label))


def find_question_type(label: str) -> QuestionType | None:
    """The question type a label names (white space and case do not matter), or None."""
    return _QUESTION_TYPES.get(_key(label))


def nearest_label(label: str, labels: list[str]) -> str:
    """The known label most like this one, for an error message.

    >>> nearest_label("Fundus Photo", sorted(MODALITY_LABELS.values()))
    'Fundus Photography'
    """
    return difflib.get_close_matches(label, labels, n=1, cutoff=0.0)[0]


@dataclass(frozen=True, slots=True)
class FileNameMeaning:
    """What a file's name says about every question in it.

    >>> meaning_of_file_name("MR (Mag-netic Resonance Imaging)_test.json").modality
    <Modality.MRI: 'mri'>
    """

    modality: Modality = Modality.UNKNOWN
    question_type: QuestionType = QuestionType.UNKNOWN
    split: str = ""


def meaning_of_file_name(name: str, num_rows: int = 0) -> FileNameMeaning:
    """Modality, question type and split from a file's name, unknown where it is none of Med-R1's.

    Three families were released: by modality, by question type, and by data set (`NAME_filtered_test`).
    The ending `_train`, `_validation` or `_test` tells the split under any name.
    `unknown_train.json` holds the single item that the authors' script could not sort, a CT of the Chest
    CT Scan data set: the name counts only for a file of exactly one row.
    """
    stem = re.sub(r"\.jsonl?\Z", "", name, flags=re.IGNORECASE)
    ending = _SPLIT_ENDING.search(stem)
    if ending is None:
        split, subject = "", stem
    else:
        split, subject = ending.group(1), stem[: ending.start()]
    if subject == "unknown" and num_rows == 1:
        return FileNameMeaning(modality=Modality.CT, split=split)
    modality = find_modality(subject) or _DATASET_MODALITIES.get(_key(subject), Modality.UNKNOWN)
    question_type = find_question_type(subject) or QuestionType.UNKNOWN
    return FileNameMeaning(modality, question_type, split)
