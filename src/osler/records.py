"""The records that pass between the stages: one frozen dataclass per stage, nothing else.

    Question -> Completion -> Rollout -> RolloutGroup        (training)
    Question -> Completion -> Prediction                      (evaluation)

Every record is plain data (text, numbers, tuples): it can be compared, hashed, written as JSON
and read back. Tensors never appear here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Modality(StrEnum):
    """The eight imaging modalities of OmniMedVQA, in the papers' order."""

    CT = "ct"
    MRI = "mri"
    XRAY = "xray"
    ULTRASOUND = "ultrasound"
    DERMOSCOPY = "dermoscopy"
    FUNDUS = "fundus"
    OCT = "oct"
    MICROSCOPY = "microscopy"
    UNKNOWN = "unknown"


class QuestionType(StrEnum):
    """The five question types of OmniMedVQA; the papers' own split files do not carry them."""

    MODALITY_RECOGNITION = "modality_recognition"
    ANATOMY_IDENTIFICATION = "anatomy_identification"
    DISEASE_DIAGNOSIS = "disease_diagnosis"
    LESION_GRADING = "lesion_grading"
    OTHER_BIOLOGICAL_ATTRIBUTES = "other_biological_attributes"
    UNKNOWN = "unknown"


class Outcome(StrEnum):
    """What came of one completion. A technical failure is `Prediction.error`, not an outcome."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    TRUNCATED = "truncated"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One multiple-choice question about zero or more images.

    >>> Question(id="BUSI_0001", text="Is a lesion visible?", choices=("Yes", "No"), answer_index=0,
    ...          images=("/data/Images/BUSI/benign_1.png",), modality=Modality.ULTRASOUND,
    ...          question_type=QuestionType.DISEASE_DIAGNOSIS, dataset="BUSI").answer_letter
    'A'
    """

    id: str
    text: str  # the stem, without choices
    choices: tuple[str, ...]  # as shown, in order
    answer_index: int  # 0-based position of the right choice
    images: tuple[str, ...] = ()  # file paths; they never reach a model
    modality: Modality = Modality.UNKNOWN
    question_type: QuestionType = QuestionType.UNKNOWN
    dataset: str = ""  # source collection, e.g. "RadImageNet"
    split: str = ""  # "train", "validation", "test" or ""
    subject_id: str = ""  # patient or specimen; "" where unknown
    source: str = ""  # "file.json row 12", for error messages

    @property
    def answer_letter(self) -> str:
        return LETTERS[self.answer_index]

    @property
    def answer(self) -> str:
        return self.choices[self.answer_index]


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was read out of a completion, and how.

    >>> Extraction(index=2, how="exact", span=(27, 28))
    Extraction(index=2, how='exact', span=(27, 28))
    """

    index: int | None  # 0-based choice, None where nothing could be read
    how: str  # "exact", "lenient:RULE", "letter-logprob" or "none"
    span: tuple[int, int] | None = None  # character range in the completion text


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """What a server says it read and wrote for one completion.

    >>> TokenCounts(prompt=312, completion=48).completion
    48
    """

    prompt: int
    completion: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One generated answer: text, and the tokens and log-probabilities it was sampled with.

    >>> Completion(text="<answer>B</answer>", token_ids=(9, 34, 10, 2),
    ...            sampled_logprobs=(-0.1, -1.2, -0.1, -0.0), finish_reason="stop").truncated
    False
    """

    text: str  # decoded, end token removed
    token_ids: tuple[int, ...]  # end token included where there was one
    sampled_logprobs: tuple[float, ...]  # nats, one per token, under the sampling distribution
    finish_reason: str  # "stop", "length", or "refusal" where a server says that it will not answer
    counted: TokenCounts | None = None  # by a server, which does not show its tokens

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"

    @property
    def refused(self) -> bool:
        return self.finish_reason == "refusal"

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) if self.counted is None else self.counted.completion


@dataclass(frozen=True, slots=True)
class Reward:
    """Scalar reward of one rollout and its unweighted parts.

    >>> Reward(total=2.0, breakdown={"format": 1.0, "accuracy": 1.0}).total
    2.0
    """

    total: float
    breakdown: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One completion with what it earned."""

    completion: Completion
    extraction: Extraction
    reward: Reward
    advantage: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """The `group_size` rollouts that share one question."""

    question: Question
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The stored result for one question; enough to compute every statistic without the data set.

    >>> Prediction(question_id="q1", text="<answer>B</answer>", extraction=Extraction(1, "exact", (8, 9)),
    ...            outcome=Outcome.CORRECT, answer_index=1, num_choices=4, image_digest="ab12",
    ...            modality=Modality.CT, question_type=QuestionType.UNKNOWN, dataset="d").correct
    True
    """

    question_id: str
    text: str
    extraction: Extraction
    outcome: Outcome | None  # None only where `error` is set
    answer_index: int
    num_choices: int
    image_digest: str  # SHA-256 of the image bytes (joined by "+" for several); the cluster
    modality: Modality
    question_type: QuestionType
    dataset: str
    subject_id: str = ""
    truncated: bool = False
    num_tokens: int = 0
    num_prompt_tokens: int = 0  # as a server counted them; 0 where nobody counted
    # Nats, one per choice, where scored so: of the letters, sum of exp 1; or of whole texts, not normalised.
    choice_logprobs: tuple[float, ...] | None = None
    error: str = ""  # technical failure: counted in n as not correct, and listed

    @property
    def correct(self) -> bool:
        return self.outcome is Outcome.CORRECT
