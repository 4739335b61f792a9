"""Checkpoints of other families: by their config; `generate` by hand; a batch of one or of many."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from osler.data.images import open_image
from osler.errors import BadInput
from osler.evaluate.answering import open_model
from osler.evaluate.plain_generate import PlainModel
from osler.prompts import TEMPLATES, messages
from osler.records import Completion, Question
from osler.rollout.sampling import Sampling
from tiny_families import write_family

FAMILIES = ("llava", "idefics3", "qwen3_vl")
THINK, GREEDY = TEMPLATES["think"], Sampling(max_completion_tokens=8)
BOUNDS = {"min_pixels": 784, "max_pixels": 401408, "precision": "fp32"}


@pytest.fixture(scope="session", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("of some other name"), request.param)


@pytest.fixture(scope="session")
def questions(image_folder: Path) -> list[Question]:
    return [
        Question(
            id=f"q{i}",
            text="Which side is it on?" + " Look again." * i,  # of different lengths, so that rows are padded
            choices=("left", "right"),
            answer_index=0,
            images=() if i == 4 else (str(image_folder / f"{i % 4}.png"),),
        )
        for i in range(6)
    ]


def opened(folder: Path, **changes: object) -> PlainModel:
    model = open_model(str(folder), **{**BOUNDS, **changes}).answering  # type: ignore[arg-type]
    assert isinstance(model, PlainModel)
    return model


def answers(
    model: PlainModel, questions: Sequence[Question], sampling: Sampling = GREEDY
) -> dict[str, Completion]:
    found = {}
    for some in model.replies(questions, THINK, sampling, "osler"):
        found.update({q.id: reply.completion for q, reply in some})
    return found  # type: ignore[return-value]


def by_hand(folder: Path, question: Question) -> list[int]:
    """The stock model, alone with one question, every part put together here."""
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        messages(question, THINK), tokenize=False, add_generation_prompt=True
    )
    images = [open_image(path) for path in question.images]
    pixels = AutoImageProcessor.from_pretrained(folder, backend="pil")
    if model.config.model_type == "qwen3_vl":  # its own processor needs torchvision
        inputs = dict(pixels(images=images, return_tensors="pt")) if images else {}
        count = int(inputs["image_grid_thw"].prod()) // 4 if images else 0
        tokens = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * count), return_tensors="pt")
        inputs |= dict(tokens)
        inputs["mm_token_type_ids"] = (tokens["input_ids"] == model.config.image_token_id).int()
        image_id = model.config.image_token_id
    else:
        processor = PROCESSOR_MAPPING[type(model.config)].from_pretrained(folder, backend="pil")
        more = {"add_special_tokens": model.config.model_type == "llava"}
        inputs = dict(
            processor(text=[text], images=[images] if images else None, return_tensors="pt", **more)
        )
        image_id = processor.image_token_id
    written = model.generate(
        **inputs, do_sample=False, max_new_tokens=8, repetition_penalty=1.0, suppress_tokens=[image_id],
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return written[0, inputs["input_ids"].shape[1] :].tolist()


def test_greedy_tokens_are_those_of_generate_by_hand(folder: Path, questions: list[Question]) -> None:
    found = answers(opened(folder), questions)
    assert {i: list(c.token_ids) for i, c in found.items()} == {q.id: by_hand(folder, q) for q in questions}
    assert len({c.token_ids for c in found.values()}) > 1  # the questions do not all get one answer
    assert {c.finish_reason for c in found.values()} <= {"stop", "length"}


def test_prompts_begin_as_the_library_begins_them(folder: Path, questions: list[Question]) -> None:
    model = opened(folder)
    if model.model.config.model_type == "qwen3_vl":
        pytest.skip("its stock processor needs torchvision")
    processor = PROCESSOR_MAPPING[type(model.model.config)].from_pretrained(folder, backend="pil")
    chat = messages(questions[1], THINK)
    chat[0]["content"][0]["image"] = open_image(questions[1].images[0])
    theirs = processor.apply_chat_template(
        chat, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    ours = model.inputs(questions[1:2], THINK)
    begin = processor.tokenizer.bos_token_id
    assert ours["input_ids"].tolist() == theirs["input_ids"].tolist()
    assert ours["input_ids"][0, :2].tolist().count(begin) == 1
    assert torch.equal(ours["pixel_values"], theirs["pixel_values"])


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_a_batch_of_one_is_a_batch_of_many(
    folder: Path, questions: list[Question], temperature: float
) -> None:
    model, sampling = opened(folder), Sampling(max_completion_tokens=8, temperature=temperature, seed=5)
    together = answers(model, questions, sampling)
    alone = {i: c for q in reversed(questions) for i, c in answers(model, [q], sampling).items()}
    assert together == alone
    if temperature:
        other = answers(model, questions, Sampling(max_completion_tokens=8, temperature=temperature, seed=6))
        assert other != together


def test_the_image_is_seen(folder: Path, questions: list[Question], image_folder: Path) -> None:
    def logits(path: Path) -> torch.Tensor:
        question = Question(id="a", text="Which?", choices=("x", "y"), answer_index=0, images=(str(path),))
        return model.model(**model.inputs([question], THINK)).logits[0, -1]

    model = opened(folder)
    same_size = image_folder / "3.png", image_folder.parent / "other.png"
    open_image(str(same_size[0])).transpose(0).save(same_size[1])
    with torch.no_grad():
        assert not torch.allclose(*map(logits, same_size), atol=1e-4)


def test_what_cannot_be_loaded_is_one_line(folder: Path, tmp_path: Path) -> None:
    def broken(name: str, **changes: object) -> Path:
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, **changes}))
        return copy

    with pytest.raises(BadInput, match=r"cannot be loaded.*my_own|my_own"):
        open_model(str(broken("own", model_type="my_own")), **BOUNDS)  # type: ignore[arg-type]
    no_chat = broken("no-chat")
    (no_chat / "chat_template.jinja").unlink()
    with pytest.raises(BadInput, match="chat template"):
        open_model(str(no_chat), **BOUNDS)  # type: ignore[arg-type]
    plain = Question(id="a", text="Which?", choices=("x", "y"), answer_index=0)
    with pytest.raises(BadInput, match="letter-logprob"):
        list(opened(folder).replies([plain], THINK, GREEDY, "letter-logprob"))
    with pytest.raises(BadInput, match="looks inside the model"):
        open_model(str(folder), **BOUNDS).needs_policy("--scorer letter-logprob")  # type: ignore[arg-type]
