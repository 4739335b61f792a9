"""Opening image files: every conversion stated, every cap before decoding, no word of Pillow's."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osler.data import images
from osler.data.images import image_digest, image_facts, open_image, rescale_to_8_bits
from osler.errors import BadInput

DEEP = np.array([[0, 1000], [30000, 65535]], dtype=np.uint16)


@pytest.fixture(autouse=True)
def _no_warning_passes() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def pixels(path: Path) -> list[list[int]]:
    image = open_image(str(path))
    assert image.mode == "RGB"
    return np.asarray(image).reshape(-1, 3).tolist()


def grey_png_header(width: int, height: int) -> bytes:
    """A PNG that promises far more pixels than it holds."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


# --- digests ------------------------------------------------------------------------------------------


def test_digest_is_sha256_of_the_bytes(tmp_path: Path) -> None:
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    a.write_bytes(b"one")
    b.write_bytes(b"two")
    expected = [hashlib.sha256(content).hexdigest() for content in (b"one", b"two")]
    assert image_digest([str(a)]) == expected[0]
    assert image_digest([str(b), str(a)]) == f"{expected[1]}+{expected[0]}"
    assert image_digest([]) == ""


def test_digest_follows_the_file_and_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    first = image_digest([str(path)])
    reads = []
    original = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: reads.append(args) or original(*args))
    assert image_digest([str(path)]) == first
    assert not reads
    path.write_bytes(b"longer")
    assert image_digest([str(path)]) != first
    os.utime(path, ns=(1, 1))
    image_digest([str(path)])
    assert len(reads) == 2


def test_digest_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"image none.png: cannot be read"):
        image_digest([str(tmp_path / "none.png")])


# --- conversions --------------------------------------------------------------------------------------


def save_deep(path: Path, mode: str) -> None:
    made = {
        "I;16": lambda: Image.fromarray(DEEP),
        "I;16B": lambda: Image.frombytes("I;16B", (2, 2), DEEP.astype(">u2").tobytes()),
        "I": lambda: Image.fromarray(DEEP.astype(np.int32)),
        "F": lambda: Image.fromarray(DEEP.astype(np.float32)),
    }[mode]()
    assert made.mode == mode
    made.save(path)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.png", "I;16"), ("a.tif", "I;16"), ("b.tif", "I;16B"), ("i.tif", "I"), ("f.tif", "F")],
)
def test_deep_grey_is_rescaled_and_not_clipped(tmp_path: Path, name: str, mode: str) -> None:
    save_deep(tmp_path / name, mode)
    low, high = np.percentile(DEEP, [0.5, 99.5])
    expected = np.rint(255 * (np.clip(DEEP, low, high) - low) / (high - low)).ravel()
    assert pixels(tmp_path / name) == [[int(v)] * 3 for v in expected] == [[v] * 3 for v in (0, 4, 118, 255)]
    assert image_facts(str(tmp_path / name)).conversions == ("rescaled to 8 bits",)


def test_rescale_edge_cases() -> None:
    assert rescale_to_8_bits(np.full((3, 3), 4000)).tolist() == [[0] * 3] * 3
    mask = np.zeros((40, 40))
    mask[0, 0] = 9  # rarer than the percentile: minimum and maximum take over
    assert rescale_to_8_bits(mask).max() == 255
    hot = np.arange(10_000, dtype=np.float64).reshape(100, 100)
    hot[0, 0] = 1e9  # one dead pixel must not turn the rest black
    assert 120 < np.median(rescale_to_8_bits(hot)) < 135
    assert rescale_to_8_bits(np.array([[np.nan, 1.0], [2.0, 3.0]])).dtype == np.uint8


def test_order_is_kept_for_random_depths() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (50, 50))
    scaled = rescale_to_8_bits(values)
    order = np.argsort(values, axis=None)
    assert np.all(np.diff(scaled.ravel()[order].astype(int)) >= 0)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [("RGBA", (255, 255, 255, 0), 0), ("RGBA", (255, 255, 255, 255), 255), ("LA", (255, 128), 128)],
)
def test_alpha_is_composited_on_black(
    tmp_path: Path, mode: str, colour: tuple[int, ...], expected: int
) -> None:
    Image.new(mode, (2, 2), colour).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png") == [[expected] * 3] * 4
    assert image_facts(str(tmp_path / "a.png")).conversions == ("alpha on black",)


def test_transparent_palette_is_composited_on_black(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 255, 0, 0] + [0] * 762)
    image.save(tmp_path / "seen.png")
    image.save(tmp_path / "hidden.png", transparency=1)
    assert pixels(tmp_path / "seen.png") == [[255, 0, 0]] * 4
    assert pixels(tmp_path / "hidden.png") == [[0, 0, 0]] * 4


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    assert pixels(tmp_path / "a.jpg") == [[255, 0, 0]] * 64
    assert image_facts(str(tmp_path / "a.jpg")).conversions == ("CMYK to RGB",)


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "png"])
def test_first_frame_of_many(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    path = tmp_path / f"a.{suffix}"
    lossless = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **lossless)
    assert pixels(path) == [[255, 0, 0]] * 16
    assert image_facts(str(path)).conversions == ("first frame",)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 16))
    image.paste((255, 255, 255), (0, 0, 16, 16))  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to look upright: left becomes top
    image.save(tmp_path / "a.png", exif=exif)
    upright = np.asarray(open_image(str(tmp_path / "a.png")))
    assert upright.shape == (32, 16, 3)
    assert upright[:16].min() == 255
    assert upright[16:].max() == 0
    assert image_facts(str(tmp_path / "a.png")).conversions == ("EXIF rotated",)


def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "white").save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[:2] + b"\xff\xe1\x00\x10Exif\0\0garbage!" + content[2:])
    assert pixels(tmp_path / "a.jpg") == [[255, 255, 255]] * 256


def test_the_name_does_not_decide_the_format(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    facts = image_facts(str(tmp_path / "a.jpg"))
    assert (facts.format, facts.extension) == ("PNG", "png")
    open_image(str(tmp_path / "a.jpg"))


# --- refusals -----------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    """The message of open_image and image_facts, once both have refused the file."""
    with pytest.raises(BadInput) as raised:
        open_image(str(path))
    message = str(raised.value)
    assert message.isprintable()
    assert "0x" not in message
    assert "BytesIO" not in message
    assert str(path.parent) not in message
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    return message


@pytest.mark.parametrize(
    ("width", "height"), [(10_000, 10_000), (40_000_001, 1), (14_000, 14_000), (60_000, 60_000), (6400, 6251)]
)
def test_megapixels_are_capped_before_decoding(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "big.png").write_bytes(grey_png_header(width, height))
    assert "over the cap of 40 megapixels" in refused(tmp_path / "big.png")


def test_needles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thin.png").write_bytes(grey_png_header(1, 100_000))
    assert "1 x 100000 is narrower than 1 to 200" in refused(tmp_path / "thin.png")


def test_file_size_is_capped_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 10)
    assert "over the cap" in refused(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp", "gif"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5])
def test_truncated_files(tmp_path: Path, suffix: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    open_image(str(path))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert "damaged, or none of PNG" in refused(path)


@pytest.mark.parametrize("suffix", ["eps", "ppm", "tga", "pdf", "ico"])
def test_other_formats_are_refused_even_if_pillow_knows_them(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / f"a.{suffix}")
    renamed = (tmp_path / f"a.{suffix}").rename(tmp_path / "a.png")
    assert "damaged, or none of PNG" in refused(renamed)


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a file" in refused(tmp_path / "folder.png")
    assert "not a file" in refused(tmp_path / "pipe.png")
    assert "not there" in refused(tmp_path / "none.png")
    assert "not there" in refused(tmp_path / "a\x00.png")


def test_random_damage_is_an_image_or_a_bad_input(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
    for suffix in ("png", "jpg", "webp", "tif", "bmp", "gif"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(noise).save(path)
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        for _ in range(40):
            damaged = content.copy()
            where = rng.integers(0, len(content), 6)
            damaged[where] = rng.integers(0, 256, 6)
            path.write_bytes(damaged.tobytes())
            try:
                assert open_image(str(path)).mode == "RGB"
            except BadInput as error:
                assert str(error).isprintable()


def test_large_images_print_no_warning(tmp_path: Path) -> None:
    (tmp_path / "big.png").write_bytes(grey_png_header(10_000, 10_000))
    program = (
        "from osler.data.images import open_image\nfrom osler.errors import BadInput\n"
        f"try:\n    open_image({str(tmp_path / 'big.png')!r})\nexcept BadInput:\n    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("refused\n", "")
