from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from osler.answers import extract_answer
from osler.phantom.questions import IMAGINGS, Domain, draw_questions
from osler.phantom_base import configuration, curriculum, tower
from osler.phantom_base.corpus import corpus
from osler.phantom_base.recipe import NUM_STEPS, STAGES
from osler.phantom_base.tokenizer import SPECIAL_TOKENS, TAGS, VOCABULARY_SIZE, train_tokenizer
from osler.policy.load import PHANTOM_BASE, load_policy
from osler.prompts import TEMPLATES
from osler.records import Modality
from osler.rollout.engine import complete
from osler.rollout.sampling import Sampling


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(corpus())


@pytest.fixture(scope="module")
def policy():
    return load_policy("phantom-base", max_pixels=configuration.MAX_PIXELS)


def test_tokenizer_is_reproduced_and_loads_as_it_was_saved(tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    shipped = (PHANTOM_BASE / "tokenizer.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8")) == json.loads(shipped)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("A) Ödem\nB) 脳 tumour, 3.5 cm?", "<think>Shows Cyst (B).</think><answer>B</answer>"):
        ids = tokenizer(text)["input_ids"]
        assert loaded(text)["input_ids"] == ids
        assert tokenizer.decode(ids) == text


def test_tags_are_ordinary_single_tokens_and_special_tokens_are_special(tokenizer) -> None:
    assert len(tokenizer) <= VOCABULARY_SIZE
    decoder = tokenizer.added_tokens_decoder
    for tag in TAGS:
        (token,) = tokenizer(tag)["input_ids"]
        assert not decoder[token].special
    for name in SPECIAL_TOKENS:
        (token,) = tokenizer(name)["input_ids"]
        assert decoder[token].special
    for piece in ("A)", " (B)"):
        assert len(tokenizer(piece)["input_ids"]) == 1


def test_first_heads_look_where_they_are_placed(tokenizer) -> None:
    model = configuration.build_model(tokenizer)
    model.model.language_model.config._attn_implementation = "eager"
    ids = torch.randint(300, 1400, (1, 24), generator=torch.Generator().manual_seed(0))
    seen = model.model.language_model(input_ids=ids, output_attentions=True).attentions[0][0]
    for head, shift in enumerate(configuration.SHIFTS[0]):
        rows = torch.arange(8, 24)
        assert torch.equal(seen[head][rows].argmax(-1), rows - shift)


def test_first_tower_heads_look_at_neighbouring_patches(tokenizer) -> None:
    vision = configuration.build_model(tokenizer).model.visual
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    size = configuration.TOWER_HIDDEN // configuration.TOWER_HEADS
    speed = 1.0 / 10_000.0 ** (torch.arange(size // 4) / (size // 4))
    angles = torch.cat([rows.flatten()[:, None] * speed, columns.flatten()[:, None] * speed], dim=1)
    cos, sin = angles.cos(), angles.sin()
    for stride, block in zip(configuration.NEIGHBOURS, vision.blocks, strict=False):
        bias = block.attn.qkv.bias.detach().view(3, configuration.TOWER_HEADS, 2, size // 2)
        for head, (down, right) in enumerate(((-1, 0), (1, 0), (0, -1), (0, 1))):
            query, key = (
                torch.cat([a * cos - b * sin, b * cos + a * sin], dim=1) for a, b in bias[:2, head].unbind(0)
            )
            asked = 8 * 3 + 4  # a patch in the middle
            found = int((query @ key.T)[asked].argmax())
            assert (found // 8 - 3, found % 8 - 4) == (down * stride, right * stride)


def test_naming_loss_of_no_opinion_is_the_mean_entropy_of_the_answer_sets() -> None:
    scenes, _ = draw_questions(Modality.MRI, 3, 0, "train", Domain.BASE)
    pictures = [curriculum.Picture(scene, "x.png") for scene in scenes]
    width = max(columns.stop for columns in tower.attribute_columns().values())
    loss, right = tower.naming_loss(torch.zeros(3, width), pictures)
    sizes = [len(a.values) for a in IMAGINGS[Modality.MRI].attributes]
    assert width == sum(len(a.values) for imaging in IMAGINGS.values() for a in imaging.attributes)
    assert float(loss) == pytest.approx(sum(math.log(n) for n in sizes) / len(sizes), abs=1e-6)
    assert len(right) == 3 * len(sizes)


def test_every_taught_completion_keeps_its_template_and_its_letter() -> None:
    rng = np.random.default_rng(3)
    scenes, _ = draw_questions(Modality.MRI, 30, 0, "train", Domain.BASE)
    examples = [curriculum.read_example(rng, "q") for _ in range(300)]
    examples += [
        curriculum.look_example(curriculum.Picture(s, "x.png"), rng, "q") for s in scenes for _ in range(5)
    ]
    careless = 0
    for example in examples:
        assert example.template.matches(example.completion)
        if "Maybe" in example.completion:
            careless += 1
        else:
            read = extract_answer(example.completion, example.question.choices)
            assert read.index == example.question.answer_index
    assert 0 < careless < len(examples)


def test_examples_depend_on_seed_and_step_alone() -> None:
    scenes, _ = draw_questions(Modality.CT, 4, 0, "train", Domain.BASE)
    pictures = [curriculum.Picture(scene, f"{i}.png") for i, scene in enumerate(scenes)]
    first = curriculum.examples_at(pictures, STAGES, 16, 0)
    again = curriculum.examples_at(pictures, STAGES, 16, 0)
    for step in (NUM_STEPS - 1, 0):
        assert first(step) == again(step)
    assert first(0) != first(1)
    for stage in STAGES:
        shares = stage.shares
        assert math.isclose(shares.recite + shares.report + shares.read + shares.look, 1.0)


def test_careless_attributes_leave_some_to_look_at_in_every_modality() -> None:
    assert set(curriculum.CARELESS) == set(IMAGINGS)
    for modality, names in curriculum.CARELESS.items():
        attributes = {a.name for a in IMAGINGS[modality].attributes}
        assert set(names) < attributes and len(set(names)) == len(names) in (2, 3)


def test_shipped_model_is_small_and_half_precision() -> None:
    assert (PHANTOM_BASE / "model.safetensors").stat().st_size <= 8_000_000
    assert json.loads((PHANTOM_BASE / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"


def test_shipped_model_keeps_the_forms(policy, tmp_path: Path) -> None:
    questions = []
    for modality, imaging in IMAGINGS.items():
        scenes, drawn = draw_questions(modality, 2, 0, "test", Domain.BASE)
        for scene, question in zip(scenes, drawn[::2], strict=True):
            path = tmp_path / f"{question.id}.png"
            Image.fromarray(imaging.render(scene, 168)).save(path)
            questions.append(replace(question, images=(str(path),)))
    for name in ("think", "nothink", "think_after"):
        completions = complete(policy, questions, TEMPLATES[name], Sampling(48))
        kept = [TEMPLATES[name].matches(group[0].text) for group in completions]
        assert sum(kept) >= 0.9 * len(kept)
