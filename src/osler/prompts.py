"""What a question looks like to the model, and what a well-formed completion looks like.

A `Template` holds instruction, tags and format rule in one object, so that training, evaluation and
`osler ask` cannot drift apart. Four templates are our own (`think`, `nothink`, `think_after`, `plain`).
The others repeat the released prompts of the two papers character for character, leading white space
included, read in JZPeterPan/MedVLM-R1 at 2eee421 and Yuxiang-Lai117/Med-R1 at 88d76c7; the papers' code
trains with one wording and tests with another, which is why each has several entries here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from osler.errors import BadInput
from osler.records import LETTERS, Question

FORMS = ("think", "nothink", "think_after", "plain")
MAX_CHOICES = len(LETTERS)

_THINK_TAG = re.compile(r"</?think>", re.IGNORECASE)
_ANY_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)
_OPEN_ANSWER = re.compile(r"<answer>", re.IGNORECASE)


@dataclass(frozen=True)
class Template:
    """Instruction, tags and format rule of one way to ask.

    `instruction` surrounds the slot `{problem}` (stem and choices) and may name the letters that really
    exist with `{letters}`. `form` is the shape of the completion: `think`, `nothink`, `think_after`
    or `plain` (a bare letter, MedVLM-R1's "simple"). `choice_style` is `lines` (`A) text`, one per line),
    `inline` (`A)text, B)text` after the stem, as the Med-R1 files have it) or `hidden` (the stem alone).
    A question without a stem is its choices alone.
    """

    name: str
    form: str
    instruction: str
    choice_style: str = "lines"

    @property
    def thinks(self) -> bool:
        """Whether a well-formed completion carries reasoning, before or after the answer."""
        return self.form in ("think", "think_after")

    def user_text(self, question: Question) -> str:
        """The text part of the user turn. Raises `BadInput` where there are not 2 to 26 choices."""
        count = len(question.choices)
        if not 2 <= count <= MAX_CHOICES:
            where = question.source or f"question {question.id!r}"
            raise BadInput(f"{where}: {count} choices; a question needs 2 to {MAX_CHOICES}")
        before, after = self.instruction.replace("{letters}", letters_phrase(count)).split("{problem}")
        return f"{before}{_problem(question, self.choice_style)}{after}"

    def write(self, answer_letter: str, thinking: str = "") -> str:
        """The canonical well-formed completion for one answer.

        Raises `BadInput` where a template with reasoning gets none (it would not be well-formed) or where
        the reasoning carries one of the tags.
        """
        if len(answer_letter) != 1 or answer_letter not in LETTERS:
            raise BadInput(f"answer letter {answer_letter!r}: one capital letter from A to Z is needed")
        thought = thinking.strip()
        if self.thinks and not _says_something(thought):
            raise BadInput(
                f"template {self.name!r} needs reasoning to write a completion; give some or use 'nothink'"
            )
        if _ANY_TAG.search(thought):
            raise BadInput(f"the reasoning for template {self.name!r} holds a think or answer tag; remove it")
        if self.form == "plain":
            return answer_letter
        answer = f"<answer>{answer_letter}</answer>"
        if self.form == "nothink":
            return answer
        reasoning = f"<think>{thought}</think>"
        return reasoning + answer if self.form == "think" else answer + reasoning

    def matches(self, text: str) -> bool:
        """Whether `text` has exactly this template's form; white space around the parts is tolerated.

        Strict where the papers' patterns are loose (MedVLM-R1 @2eee421 grpo.py:136, Med-R1 @88d76c7
        grpo_vqa.py:100): one answer tag with one capital letter in it, reasoning that says something and
        holds no tag, nothing outside.
        """
        if self.form == "plain":
            return _is_letter(text.strip())
        if _ANY_TAG.findall(text) != _TAG_ORDER[self.form]:
            return False
        pieces = [piece.strip() for piece in _ANY_TAG.split(text)]
        filled = [index for index, piece in enumerate(pieces) if piece]
        if self.form == "nothink":
            return filled == [1] and _is_letter(pieces[1])
        thought, letter = (pieces[1], pieces[3]) if self.form == "think" else (pieces[3], pieces[1])
        return filled == [1, 3] and _says_something(thought) and _is_letter(letter)

    def answer_prefix(self, text: str) -> str | None:
        """The completion up to where its answer letter stands.

        It ends with the first `<answer>` outside the reasoning, where the letters' log-probabilities are
        read; "" for a plain template; None where the completion has no such place.
        """
        if self.form == "plain":
            return ""
        start = 0
        for span_start, span_end in [*thinking_spans(text), (len(text), len(text))]:
            tag = _OPEN_ANSWER.search(text, start, span_start)
            if tag is not None:
                return text[: tag.end()]
            start = span_end
        return None


_TAG_ORDER = {
    "nothink": ["<answer>", "</answer>"],
    "think": ["<think>", "</think>", "<answer>", "</answer>"],
    "think_after": ["<answer>", "</answer>", "<think>", "</think>"],
}


def _is_letter(text: str) -> bool:
    return len(text) == 1 and text in LETTERS


def _says_something(thought: str) -> bool:
    return any(character.isalnum() for character in thought)


def thinking_spans(text: str) -> list[tuple[int, int]]:
    """Character ranges of the reasoning, tags included, in order and without overlap; linear in the text.

    A `<think>` without its end runs to the end of the text. A `<think>` inside reasoning is text. A
    `</think>` with nothing open means that the reasoning began before it (a prompt may open the tag, or
    tags were nested to smuggle an answer out): everything up to it is reasoning.
    """
    spans: list[tuple[int, int]] = []
    opened: int | None = None
    for tag in _THINK_TAG.finditer(text):
        closing = tag.group()[1] == "/"
        if not closing:
            opened = tag.start() if opened is None else opened
        elif opened is None:
            spans = [(0, tag.end())]
        else:
            spans.append((opened, tag.end()))
            opened = None
    if opened is not None:
        spans.append((opened, len(text)))
    return spans


def letters_phrase(count: int) -> str:
    """The letters of `count` choices as words: "A or B", "A, B, C or D"."""
    return f"{', '.join(LETTERS[: count - 1])} or {LETTERS[count - 1]}"


def _problem(question: Question, choice_style: str) -> str:
    pairs = list(zip(LETTERS, question.choices, strict=False))
    stem = [question.text] if question.text else []
    if choice_style == "hidden":
        return question.text
    if choice_style == "lines":
        return "\n".join([*stem, *(f"{letter}) {choice}" for letter, choice in pairs)])
    return " ".join([*stem, ", ".join(f"{letter}){choice}" for letter, choice in pairs)])


_OURS = (
    Template(
        "think",
        "think",
        "{problem}\nReason step by step inside <think></think>, then give the letter of the right choice "
        "({letters}) inside <answer></answer>.",
    ),
    Template(
        "nothink",
        "nothink",
        "{problem}\nGive only the letter of the right choice ({letters}) inside <answer></answer>.",
    ),
    Template(
        "think_after",
        "think_after",
        "{problem}\nGive the letter of the right choice ({letters}) inside <answer></answer>, "
        "then explain it inside <think></think>.",
    ),
    Template("plain", "plain", "{problem}\nReply with the letter of the right choice only ({letters})."),
)


# Phrases that the released prompts have in common.
_ENCLOSE = (
    "Think through the question step by step, enclose your reasoning process in <think>...</think> tags."
)
_LETTER_IN_TAGS = (
    "provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags."
)


def _medvlm_r1_complex(indent: str) -> str:
    steps = (
        "{problem} ",
        "Your task: ",
        f"1. {_ENCLOSE} ",
        f"2. Then {_LETTER_IN_TAGS}",
        "3. No extra information or text outside of these tags.",
        "",
    )
    return "".join(f"\n{indent}{step}" for step in steps)


# Sources, in order: MedVLM-R1 grpo.py:164-170, eval/test_qwen2vl_med.py:71-77 and :65-69; Med-R1
# grpo_vqa.py:152, grpo_vqa_nothink.py:151, eval_vqa/test_qwen2vl_vqa.py:43, .._nothink.py:44,
# .._zero_shot.py:43, README:162. Commits: see above.
_PAPERS = (
    Template("medvlm_r1_complex", "think", _medvlm_r1_complex(" " * 8)),
    Template("medvlm_r1_complex_eval", "think", _medvlm_r1_complex(" " * 4)),
    Template(
        "medvlm_r1_simple",
        "plain",
        "\n    {problem} \n    Your task: provide the correct single-letter choice (A, B, C, D,...).\n    ",
    ),
    Template(
        "med_r1_think",
        "think",
        f"{{problem}} Your task: 1. {_ENCLOSE} 2. Then {_LETTER_IN_TAGS} "
        "3. No extra information or text outside of these tags.",
        "inline",
    ),
    Template(
        "med_r1_nothink",
        "nothink",
        f"{{problem}} Your task: 1. P{_LETTER_IN_TAGS[1:]} "
        "2. No extra information or text outside of this tag.",
        "inline",
    ),
    Template(
        "med_r1_think_eval",
        "think",
        "{problem} Think through the question step by step in <think>...</think> tags. "
        f"Then {_LETTER_IN_TAGS}",
        "inline",
    ),
    Template("med_r1_nothink_eval", "nothink", f"{{problem}} P{_LETTER_IN_TAGS[1:]}", "inline"),
    Template(
        "med_r1_zero_shot",
        "plain",
        "{problem} Provide the correct single-letter choice (A, B, C, D,...).",
        "inline",
    ),
    Template(
        "med_r1_readme",
        "think",
        "{problem} First output the thinking process in <think> </think> and final choice "
        "(A, B, C, D ...) in <answer> </answer> tags.",
        "inline",
    ),
)

# The stem without its choices, for scoring the choices' texts; nobody is trained or asked with these.
_QUESTION_ONLY = Template(
    "question_only", "nothink", "{problem}\nGive only the right answer inside <answer></answer>.", "hidden"
)
_QUESTION_ONLY_PLAIN = Template(
    "question_only_plain", "plain", "{problem}\nReply with the right answer only.", "hidden"
)


def question_only(template: Template) -> Template:
    """How a model that is asked with `template` is asked without seeing any choice."""
    return _QUESTION_ONLY_PLAIN if template.form == "plain" else _QUESTION_ONLY


TEMPLATES: dict[str, Template] = {template.name: template for template in (*_OURS, *_PAPERS)}


def get_template(name: str) -> Template:
    """The template called `name`; `BadInput` names the nearest one where there is none."""
    if name in TEMPLATES:
        return TEMPLATES[name]
    near = get_close_matches(name, TEMPLATES, n=1, cutoff=0.0)[0]
    raise BadInput(f"unknown template {name!r}: did you mean {near!r}? known: {', '.join(TEMPLATES)}")


def messages(question: Question, template: Template) -> list[dict[str, Any]]:
    """Hugging Face chat messages: one user turn, one image part per image, then the text.

    No image path enters a message: in OmniMedVQA class folders spell out the answer
    (`Images/Chest CT Scan/test/adenocarcinoma_…/`, Med-R1 @88d76c7 README.md:96).
    """
    content: list[dict[str, Any]] = [{"type": "image"} for _ in question.images]
    content.append({"type": "text", "text": template.user_text(question)})
    return [{"role": "user", "content": content}]
