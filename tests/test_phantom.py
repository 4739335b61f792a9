"""Phantom images and the benchmark on disk."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osler.audit.blind import blind_accuracy
from osler.data.load import load_questions
from osler.errors import BadInput
from osler.phantom import mri
from osler.phantom.benchmark import IMAGE_SIZE, LEAK_SHARE, draw_parts, part_sizes, write_benchmark
from osler.phantom.draw import edge, ellipse, pose, smooth_noise
from osler.phantom.questions import IMAGINGS, PARTS, draw_questions
from osler.phantom.scene import Scene, draw_scene
from osler.phantom.xray import Projection
from osler.records import Modality

MODALITIES = tuple(IMAGINGS)
IMAGES, SEED = 10, 5


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantom") / "plain"
    calls: list[tuple[int, int]] = []
    write_benchmark(out, IMAGES, SEED, progress=lambda done, total: calls.append((done, total)), workers=1)
    assert calls[-1] == (IMAGES * 8, IMAGES * 8)
    return out


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("size", [112, 168])
def test_render_is_a_pure_function(modality, size):
    scene = draw_scene(IMAGINGS[modality], np.random.default_rng(3))
    pixels = IMAGINGS[modality].render(scene, size)
    assert pixels.dtype == np.uint8 and pixels.shape[:2] == (size, size)
    assert pixels.ndim == 2 or pixels.shape[2:] == (3,)
    assert np.array_equal(pixels, IMAGINGS[modality].render(scene, size))
    other = Scene(modality, scene.values, scene.nuisance_seed + 1)
    assert not np.array_equal(pixels, IMAGINGS[modality].render(other, size))
    assert pixels.std() > 15


def blocks(pixels: np.ndarray) -> np.ndarray:
    """Means over 4 x 4 pixels, so that pixel noise does not count as a difference."""
    grey = pixels.astype(np.float64).reshape(*pixels.shape[:2], -1).mean(axis=2)
    return grey.reshape(IMAGE_SIZE // 4, 4, IMAGE_SIZE // 4, 4).mean(axis=(1, 3))


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_attribute_shows_in_the_pixels(modality):
    """With one attribute changed, some 4 x 4 block differs by more than 12 grey levels."""
    rng = np.random.default_rng(0)
    imaging = IMAGINGS[modality]
    for attribute in imaging.attributes:
        for _ in range(3):
            scene = draw_scene(imaging, rng)
            others = [value for value in attribute.values if value != scene.values[attribute.name]]
            changed = {**scene.values, attribute.name: others[int(rng.integers(len(others)))]}
            before = blocks(imaging.render(scene, IMAGE_SIZE))
            after = blocks(imaging.render(Scene(modality, changed, scene.nuisance_seed), IMAGE_SIZE))
            assert np.abs(after - before).max() > 12, (attribute.name, scene, changed)


def test_layout_is_read_by_the_adapter(benchmark):
    for part in PARTS:
        loaded = load_questions(benchmark / part)
        drawn = [
            question
            for modality in MODALITIES
            for question in draw_questions(modality, part_sizes(IMAGES)[part], SEED, part)[1]
        ]
        assert not loaded.bad and not loaded.warnings
        found = {question.id: question for question in loaded.questions}
        assert len(found) == len(loaded.questions) == len(drawn)
        for question in drawn:
            read = found[question.id]
            assert (read.text, read.choices, read.answer_index) == (
                question.text,
                question.choices,
                question.answer_index,
            )
            assert (read.modality, read.question_type, read.dataset) == (
                question.modality,
                question.question_type,
                question.dataset,
            )
            assert Path(read.images[0]).samefile(benchmark / part / question.images[0])


def test_rows_have_the_keys_of_omnimedvqa(benchmark):
    rows = json.loads((benchmark / "test/QA_information/Open-access/Phantom OCT.json").read_text())
    keys = (
        "dataset question_id question_type question gt_answer image_path option_A option_B option_C option_D"
    )
    assert list(rows[0]) == [*keys.split(), "modality_type"]
    assert rows[0]["modality_type"] == "OCT (Optical Coherence Tomography"
    assert rows[0]["image_path"].startswith("Images/Phantom_OCT/test_0000")


def test_parts_share_no_image(benchmark):
    digests: dict[str, str] = {}
    for file in sorted(benchmark.glob("*/Images/*/*.png")):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert digest not in digests, f"{file} repeats {digests[digest]}"
        digests[digest] = str(file)
        with Image.open(file) as image:
            assert image.size == (IMAGE_SIZE, IMAGE_SIZE) and image.mode in ("L", "RGB")
    assert len(digests) == IMAGES * len(MODALITIES)


def test_same_bytes_with_several_processes(benchmark, tmp_path):
    write_benchmark(tmp_path / "again", IMAGES, SEED, workers=2)
    assert files_of(tmp_path / "again") == files_of(benchmark)


def test_manifest_and_contact_sheet(benchmark):
    manifest = json.loads((benchmark / "phantom.json").read_text())
    assert (manifest["seed"], manifest["images_per_modality"], manifest["planted"]) == (SEED, IMAGES, None)
    assert set(manifest["cells"]) == {modality.value for modality in MODALITIES}
    with Image.open(benchmark / "contact_sheet.png") as sheet:
        assert min(sheet.size) > 5 * IMAGE_SIZE


def test_manifest_lists_the_cells_that_were_drawn(tmp_path):
    write_benchmark(tmp_path / "two", IMAGES, SEED, workers=1, modalities=(Modality.XRAY, Modality.CT))
    cells = json.loads((tmp_path / "two" / "phantom.json").read_text())["cells"]
    types = {
        modality: {q.question_type.value for q in draw_questions(Modality(modality), 200, 0, "train")[1]}
        for modality in ("xray", "ct")
    }
    assert {modality: set(listed) for modality, listed in cells.items()} == types


def test_sizes_add_up():
    assert part_sizes(500) == {"train": 300, "validation": 50, "test": 150}
    for images in range(10, 200):
        sizes = part_sizes(images)
        assert sum(sizes.values()) == images and min(sizes.values()) >= 1


def test_planted_leak_is_there_and_recorded(tmp_path):
    out = tmp_path / "leak"
    write_benchmark(out, IMAGES, SEED, plant="leak", workers=1)
    planted = json.loads((out / "phantom.json").read_text())["planted"]
    expected = max(1, round(LEAK_SHARE * part_sizes(IMAGES)["test"])) * len(MODALITIES)
    assert planted["kind"] == "leak" and len(planted["copies"]) == expected
    train = {file.read_bytes() for file in (out / "train").glob("Images/*/*.png")}
    test = {file: file.read_bytes() for file in (out / "test").glob("Images/*/*.png")}
    found = {str(file.relative_to(out / "test")) for file, content in test.items() if content in train}
    assert found == {pair["test"] for pair in planted["copies"]}
    for pair in planted["copies"]:
        assert (out / "test" / pair["test"]).read_bytes() == (out / "train" / pair["train"]).read_bytes()


def test_planted_leak_repeats_the_questions_under_ids_of_the_test_part():
    parts = {(part.name, part.modality): part for part in draw_parts(40, 0, "leak")}
    for modality in MODALITIES:
        train, test = parts["train", modality], parts["test", modality]
        assert all(f"_{test.name}_" in question.id for question in test.questions)
        asked = {(q.images[0], q.text, q.choices) for q in train.questions}
        origin = dict(test.copies)
        leaked = [q for q in test.questions if q.images[0] in origin]
        assert len(leaked) == 2 * round(LEAK_SHARE * 12)
        assert all((origin[q.images[0]], q.text, q.choices) in asked for q in leaked)


def test_planted_shortcut_is_found_by_a_reader_of_the_text():
    plain, planted = draw_parts(100, 0), draw_parts(100, 0, "shortcut")
    for parts, low, high in ((plain, 0.0, 0.45), (planted, 0.95, 1.0)):
        by_name = {part.name: part.questions for part in parts if part.modality is Modality.MRI}
        assert low <= blind_accuracy(by_name["train"], by_name["test"]) <= high


def test_bad_requests_are_named(benchmark, tmp_path):
    with pytest.raises(BadInput, match="not empty"):
        write_benchmark(benchmark, IMAGES, SEED)
    with pytest.raises(BadInput, match="at least 10"):
        write_benchmark(tmp_path / "a", 3, SEED)
    with pytest.raises(BadInput, match="leak, shortcut"):
        write_benchmark(tmp_path / "b", IMAGES, SEED, plant="bias")
    with pytest.raises(BadInput, match="seed -4"):
        write_benchmark(tmp_path / "c", IMAGES, -4)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_leaves_nothing_behind(tmp_path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_benchmark(tmp_path / "stopped", IMAGES, SEED, progress=stop, workers=1)
    assert not list(tmp_path.iterdir())


def test_phantom_imports_no_torch():
    code = (
        "import sys, osler.phantom.benchmark; print({'torch', 'transformers', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_drawn_ellipse_has_its_area():
    x, y = pose(400, shift=(0.1, -0.05), turn=0.4, zoom=1.1)
    area = float(ellipse(x, y, (0.1, 0.2), (0.4, 0.2), 0.7).sum()) * (2 / 400) ** 2
    assert area == pytest.approx(np.pi * 0.4 * 0.2 * 1.1**2, rel=0.01)
    assert edge(np.array([-1.0, 0.0, 1.0])).tolist() == [0.0, 0.5, 1.0]


def test_smooth_noise_has_unit_variance():
    fields = [smooth_noise(np.random.default_rng(seed), 168, 24) for seed in range(8)]
    assert np.std(fields) == pytest.approx(1.0, abs=0.05)
    assert abs(np.mean(fields)) < 0.05


def test_ray_through_an_ellipsoid_is_as_long_as_counted_along_it():
    """The closed form against a sum over small steps along each ray."""
    centre, axes, turn = (0.2, -0.1, 0.05), (0.5, 0.3, 0.4), 0.6
    u, z = np.meshgrid(np.linspace(-0.9, 0.9, 13), np.linspace(-0.5, 0.5, 9))
    chord = Projection(u, z, turn).chord(centre, axes)
    depth = np.linspace(-1.5, 1.5, 6001)
    left = u[..., None] * np.cos(turn) + depth * np.sin(turn) - centre[0]
    front = -u[..., None] * np.sin(turn) + depth * np.cos(turn) - centre[1]
    inside = (left / axes[0]) ** 2 + (front / axes[1]) ** 2 + ((z[..., None] - centre[2]) / axes[2]) ** 2 < 1
    assert chord == pytest.approx(inside.sum(axis=2) * (depth[1] - depth[0]), abs=2e-3)


def test_mri_contrast_has_the_order_every_textbook_gives():
    def tone(tissue: str, sequence: str) -> float:
        return mri.signal(tissue, sequence)

    assert (
        tone("fluid", "T1-weighted")
        < tone("grey matter", "T1-weighted")
        < tone("white matter", "T1-weighted")
    )
    assert (
        tone("white matter", "T2-weighted")
        < tone("grey matter", "T2-weighted")
        < tone("fluid", "T2-weighted")
    )
    # The inversion time nulls fluid and leaves oedema the brightest.
    assert tone("fluid", "FLAIR") < 0.02 < tone("white matter", "FLAIR") < tone("oedema", "FLAIR")
    assert tone("tumour", "T1 with contrast") > 1.5 * tone("tumour", "T1-weighted")
    assert tone("fluid", "T1 with contrast") == tone("fluid", "T1-weighted")
