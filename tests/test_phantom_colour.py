"""The four colour modalities: closed answer sets, and pictures that show every answer."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import osler.phantom.colour as colour
from osler.phantom import dermoscopy, fundus, microscopy, oct
from osler.phantom.scene import Attribute, Imaging, Scene, draw_scene
from osler.records import QuestionType

IMAGINGS = [dermoscopy.IMAGING, fundus.IMAGING, oct.IMAGING, microscopy.IMAGING]
ATTRIBUTES = [
    pytest.param(imaging, attribute, id=f"{imaging.modality}-{attribute.name}")
    for imaging in IMAGINGS
    for attribute in imaging.attributes
]
each_imaging = pytest.mark.parametrize("imaging", IMAGINGS, ids=lambda i: str(i.modality))
each_attribute = pytest.mark.parametrize(("imaging", "attribute"), ATTRIBUTES)


def _scenes(imaging: Imaging, number: int, seed: int = 7) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [draw_scene(imaging, rng) for _ in range(number)]


def _with(scene: Scene, attribute: Attribute, value: str) -> Scene:
    return replace(scene, values={**scene.values, attribute.name: value})


@each_imaging
def test_one_attribute_of_each_question_type(imaging: Imaging) -> None:
    types = [attribute.question_type for attribute in imaging.attributes]
    assert sorted(types) == sorted(set(QuestionType) - {QuestionType.UNKNOWN})
    assert len({attribute.name for attribute in imaging.attributes}) == len(types)


@each_attribute
def test_answers_are_a_closed_set_of_short_distinct_texts(imaging: Imaging, attribute: Attribute) -> None:
    normalised = {" ".join(value.lower().split()) for value in attribute.values}
    assert len(normalised) == len(attribute.values) >= 4
    assert all(1 <= len(value.split()) <= 3 for value in attribute.values)
    assert attribute.wordings and all(wording.endswith("?") for wording in attribute.wordings)


@each_imaging
def test_no_stem_names_an_answer_and_none_serves_two_attributes(imaging: Imaging) -> None:
    stems = [wording.lower() for attribute in imaging.attributes for wording in attribute.wordings]
    assert len(set(stems)) == len(stems)
    for attribute in imaging.attributes:
        for value in attribute.values:
            words = value.lower().split()
            assert not any(set(words) <= set(w.lower().rstrip("?").split()) for w in attribute.wordings), (
                value
            )


@each_imaging
@pytest.mark.parametrize("size", [56, 112, 168])
def test_render_gives_colour_bytes_at_any_size(imaging: Imaging, size: int) -> None:
    image = imaging.render(_scenes(imaging, 1)[0], size)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    assert image.std() > 10


@each_imaging
def test_render_is_pure(imaging: Imaging) -> None:
    first, second = _scenes(imaging, 2)
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    values = dict(first.values)
    image = imaging.render(first, 64)
    imaging.render(second, 96)
    assert np.array_equal(imaging.render(first, 64), image)
    assert dict(first.values) == values
    assert np.array_equal(np.random.get_state()[1], state)


@each_imaging
def test_the_nuisance_seed_changes_the_picture_and_not_the_truth(imaging: Imaging) -> None:
    scene = _scenes(imaging, 1)[0]
    other = replace(scene, nuisance_seed=scene.nuisance_seed + 1)
    difference = np.abs(imaging.render(scene, 64).astype(float) - imaging.render(other, 64))
    assert difference.mean() > 2


@each_imaging
def test_the_same_scene_looks_the_same_at_two_sizes(imaging: Imaging) -> None:
    for scene in _scenes(imaging, 4):
        large = imaging.render(scene, 168).astype(float).reshape(28, 6, 28, 6, 3).mean(axis=(1, 3))
        small = imaging.render(scene, 112).astype(float).reshape(28, 4, 28, 4, 3).mean(axis=(1, 3))
        assert np.corrcoef(large.ravel(), small.ravel())[0, 1] > 0.9


@each_attribute
def test_every_pair_of_answers_is_told_apart_by_pixels(imaging: Imaging, attribute: Attribute) -> None:
    """Only this attribute changes, averaged over nuisance: some tenth of the picture must change clearly.

    A tenth (12 of 120 pixels), because a finding has to fill a good part of one 28-pixel token of a 112-pixel
    picture to be learnt by a tiny model; the bar, root mean square 20 of 255 (sensor noise is 4).
    """
    scenes = _scenes(imaging, 6)
    for i, one in enumerate(attribute.values):
        for other in attribute.values[:i]:
            changes = []
            for scene in scenes:
                a, b = (
                    imaging.render(_with(scene, attribute, value), 120).astype(float)
                    for value in (one, other)
                )
                squared = ((a - b) ** 2).reshape(10, 12, 10, 12, 3).mean(axis=(1, 3, 4))
                changes.append(np.sqrt(squared.max()))
            assert np.mean(changes) > 30 and min(changes) > 20, (one, other, changes)


@each_imaging
def test_scenes_draw_attributes_uniformly_and_independently(imaging: Imaging) -> None:
    from scipy.stats import chi2_contingency, chisquare

    scenes = _scenes(imaging, 4000)
    columns = [[a.values.index(s.values[a.name]) for s in scenes] for a in imaging.attributes]
    for k, column in enumerate(columns):
        assert chisquare(np.bincount(column, minlength=len(imaging.attributes[k].values))).pvalue > 1e-4
        for other in columns[:k]:
            table = np.zeros((max(column) + 1, max(other) + 1))
            np.add.at(table, (column, other), 1)
            assert chi2_contingency(table).pvalue > 1e-4


def test_beer_lambert_adds_optical_densities() -> None:
    one, two = np.full((2, 2), 0.3), np.full((2, 2), 0.7)
    dye = (1.0, 0.5, 0.0)
    together = colour.absorb((1, 1, 1), (one, dye), (two, dye))
    apart = colour.absorb((1, 1, 1), (one, dye)) * colour.absorb((1, 1, 1), (two, dye))
    np.testing.assert_allclose(together, apart, rtol=1e-6)
    np.testing.assert_allclose(together[0, 0], [np.exp(-1), np.exp(-0.5), 1], rtol=1e-6)


def test_a_spot_covers_its_area_at_every_size() -> None:
    for size in (64, 112, 168):
        canvas = np.zeros((size, size), dtype=np.float32)
        colour.add_blob(canvas, 0.1, -0.2, 0.3, 2 / size)
        assert canvas.sum() * (2 / size) ** 2 == pytest.approx(np.pi * 0.3**2, rel=0.01)


def test_a_cluster_equals_its_spots_one_by_one() -> None:
    offsets = np.array([(0.0, 0.0), (0.2, 0.1), (-0.15, 0.3)])
    together, apart = np.zeros((2, 80, 80), dtype=np.float32)
    colour.add_cluster(together, 0.7, 0.6, offsets, 0.1, 0.03)
    for dy, dx in offsets:
        colour.add_blob(apart, 0.7 + dy, 0.6 + dx, 0.1, 0.03)
    np.testing.assert_allclose(together, apart, atol=1e-5)


def test_a_stroke_covers_length_times_width_and_thin_ones_stay_visible() -> None:
    line = np.array([(-0.5, -0.5), (-0.5, 0.5)])
    thick = colour.strokes(200, [(line, [0.1, 0.1])])
    assert thick.sum() * (2 / 200) ** 2 == pytest.approx(0.1, rel=0.12)
    assert colour.strokes(100, [(line, [1e-4, 1e-4])]).max() > 0.3


def test_shapes_outside_the_image_leave_it_empty() -> None:
    canvas = np.zeros((50, 50), dtype=np.float32)
    colour.add_blob(canvas, 5.0, -5.0, 0.2, 0.03)
    assert not canvas.any()


@pytest.mark.parametrize("module", [colour, dermoscopy, fundus, oct, microscopy])
def test_modules_load_without_the_training_stack(module: object) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text())  # type: ignore[attr-defined]
    names = {
        n.names[0].name if isinstance(n, ast.Import) else n.module
        for n in ast.walk(tree)
        if isinstance(n, (ast.Import, ast.ImportFrom))
    }
    assert not {str(name).split(".")[0] for name in names} & {"torch", "transformers", "sklearn"}
