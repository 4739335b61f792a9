"""What a completion earns: reward functions, and the rubric that weighs them.

Ours: `format` (the template's exact form), `accuracy` (the extraction is the answer) and `length`. The
tricks that the papers' rules pay for (several answers, an answer inside the reasoning, empty reasoning,
echoed choices) earn nothing from ours, neither format nor accuracy. The papers' own rules are there by name,
as released (JZPeterPan/MedVLM-R1 @2eee421 and Yuxiang-Lai117/Med-R1 @88d76c7; the lines stand at each), for
reproductions. A user's function is named as `package.module:function`.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Real

from osler.errors import BadInput
from osler.prompts import Template, thinking_spans
from osler.records import Completion, Extraction, Question, Reward

RewardFunction = Callable[[Completion, Extraction, Question, Template], float]

# Tokens at which the length reward reaches 0; the completion limit of the Med-R1 runs (TRL 0.14's default).
LENGTH_BUDGET_TOKENS = 256

_ANSWER_TAG = re.compile(r"</?answer>", re.IGNORECASE)
_THINK_TAG = re.compile(r"</?think>", re.IGNORECASE)


def format_reward(
    completion: Completion, extraction: Extraction, question: Question, template: Template
) -> float:
    """1 where the completion has the template's exact form and its letter is one of the choices, else 0."""
    return float(extraction.how == "exact" and template.matches(completion.text))


def accuracy_reward(
    completion: Completion, extraction: Extraction, question: Question, template: Template
) -> float:
    """1 where the answer read, exactly or leniently, is right and was not got by a trick, else 0."""
    return float(extraction.index == question.answer_index and not is_trick(completion.text))


def length_reward(
    completion: Completion, extraction: Extraction, question: Question, template: Template
) -> float:
    """accuracy * max(0, 1 - n / 256), n = tokens of the completion, end token included.

    Gated on the right answer: brevity alone earns nothing.
    """
    brevity = max(0.0, 1 - len(completion.token_ids) / LENGTH_BUDGET_TOKENS)
    return accuracy_reward(completion, extraction, question, template) * brevity


def is_trick(text: str) -> bool:
    """Whether a completion answers more than once, inside its reasoning, or after reasoning of no words."""
    tags = [tag.group().lower() for tag in _ANSWER_TAG.finditer(text)]
    if tags.count("<answer>") > 1 or tags.count("</answer>") > 1:
        return True
    for start, end in thinking_spans(text):
        if _ANSWER_TAG.search(text, start, end):
            return True
        if not any(character.isalnum() for character in _THINK_TAG.sub("", text[start:end])):
            return True
    return False


def medvlm_r1_format(
    completion: Completion, extraction: Extraction, question: Question, template: Template
) -> float:
    """MedVLM-R1's format rule (its grpo.py:134-141), whatever the template: 0 or 1.

    The whole text, without any white space around it, is `<think>`, anything, `</think>`, white space,
    `<answer>`, anything, `</answer>`. "Anything" may be empty or hold further tags.
    """
    return float(_is_think_then_answer(completion.text))


def medvlm_r1_accuracy(
    completion: Completion, extraction: Extraction, question: Question, template: Template
) -> float:
    """MedVLM-R1's accuracy rule (its grpo.py:64-131): 0, 0.5 or 1.

    Counts the letters A to J in the upper-cased text of the first answer tag, words included. Only where
    there is one and it is the answer: 1 if nothing else stands there, 0.5 if something does.
    """
    opening = re.search("<answer>", completion.text, re.IGNORECASE)
    closing = opening and re.compile("</answer>", re.IGNORECASE).search(completion.text, opening.end())
    if not opening or not closing:
        return 0.0
    content = completion.text[opening.end() : closing.start()].strip()
    if re.findall("[A-J]", content.upper()) != [question.answer_letter]:
        return 0.0
    return 1.0 if len(content) == 1 else 0.5


def med_r1_format(
    completion: Completion, extraction: Extraction, question: Question, template: Template
) -> float:
    """Med-R1's format rules (its grpo_vqa.py:100, grpo_vqa_nothink.py:100): 0 or 1, by the template's form.

    With reasoning the same as MedVLM-R1's; without, white space, `<answer>`, anything, `</answer>`. Raises
    `BadInput` for other forms: the released code has no rule for them.
    """
    text = completion.text
    if template.form == "think":
        return float(_is_think_then_answer(text))
    if template.form != "nothink":
        raise BadInput(
            f"reward 'med_r1_format' has no rule for template {template.name!r}; "
            "use a think or nothink template, or the reward 'format'"
        )
    start = len(text) - len(text.lstrip())
    last = len(text) - len("</answer>")
    starts = text.startswith("<answer>", start)
    return float(starts and text.endswith("</answer>") and start + len("<answer>") <= last)


def med_r1_accuracy(
    completion: Completion, extraction: Extraction, question: Question, template: Template
) -> float:
    """Med-R1's accuracy rule (its grpo_vqa.py:53-95): 0 or 1.

    The stripped text of the first answer tag that opens and closes on one line, else the whole stripped
    completion, is the answer's letter. The released function first asks the `math_verify` package to parse
    both sides as mathematics (:60-66); for letters that parse is empty and the branch can never fire, so it
    is left out.
    """
    for line in completion.text.split("\n"):
        _, opening, rest = line.partition("<answer>")
        content, closing, _ = rest.partition("</answer>")
        if opening and closing:
            return float(content.strip() == question.answer_letter)
    return float(completion.text.strip() == question.answer_letter)


def _is_think_then_answer(text: str) -> bool:
    if not (text.startswith("<think>") and text.endswith("</answer>")):
        return False
    last = len(text) - len("</answer>")
    return re.compile(r"</think>\s*<answer>").search(text, len("<think>"), last) is not None


REWARDS: dict[str, RewardFunction] = {
    "format": format_reward,
    "accuracy": accuracy_reward,
    "length": length_reward,
    "medvlm_r1_format": medvlm_r1_format,
    "medvlm_r1_accuracy": medvlm_r1_accuracy,
    "med_r1_format": med_r1_format,
    "med_r1_accuracy": med_r1_accuracy,
}


@dataclass(frozen=True)
class Rubric:
    """Reward functions and their weights, by name.

    A weight of 0 keeps a part in the breakdown without training on it; a negative weight is a penalty.
    Raises `BadInput` where a weight is not a finite number or has no function.
    """

    weights: Mapping[str, float]
    functions: Mapping[str, RewardFunction]

    def __post_init__(self) -> None:
        if not self.weights:
            raise BadInput("rewards: no reward function given; name at least one, such as accuracy = 1.0")
        for name, weight in self.weights.items():
            if isinstance(weight, bool) or not isinstance(weight, Real) or not math.isfinite(weight):
                raise BadInput(f"reward {name!r}: weight {weight!r} is not a finite number")
            if name not in self.functions:
                raise BadInput(f"reward {name!r} has a weight but no function")

    def score(
        self, completion: Completion, extraction: Extraction, question: Question, template: Template
    ) -> Reward:
        """The weighted sum, and each function's unweighted value.

        Raises `BadInput` where a function returns no finite number. What a function raises passes
        through, with a note that names the function and the question.
        """
        breakdown: dict[str, float] = {}
        for name in self.weights:
            try:
                value = self.functions[name](completion, extraction, question, template)
            except Exception as error:
                error.add_note(f"raised by reward function {name!r} on question {question.id!r}")
                raise
            if not isinstance(value, Real) or not math.isfinite(value):
                raise BadInput(
                    f"reward function {name!r} returned {value!r} for question {question.id!r}; "
                    "it has to return a finite number"
                )
            breakdown[name] = float(value)
        total = sum(weight * breakdown[name] for name, weight in self.weights.items())
        return Reward(total=total, breakdown=breakdown)


def build_rubric(weights: Mapping[str, float]) -> Rubric:
    """The rubric for weights by name; a name is one of `REWARDS` or `package.module:function`.

    Raises `BadInput` where a name cannot be resolved.
    """
    return Rubric(weights=dict(weights), functions={name: _resolve(name) for name in weights})


def _resolve(name: str) -> RewardFunction:
    if name in REWARDS:
        return REWARDS[name]
    if ":" not in name:
        near = get_close_matches(name, REWARDS, n=1, cutoff=0.0)[0]
        raise BadInput(
            f"unknown reward {name!r}: did you mean {near!r}? known: {', '.join(REWARDS)}, "
            "or package.module:function"
        )
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise BadInput(
            f"reward {name!r}: module {module_name!r} cannot be imported ({type(error).__name__}: {error}); "
            "check the name, and PYTHONPATH if it is not installed"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise BadInput(f"reward {name!r}: module {module_name!r} has no function {function_name!r}")
    try:
        inspect.signature(function).bind(None, None, None, None)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"reward {name!r}: the function has to take (completion, extraction, question, template): {error}"
        ) from error
    return function
