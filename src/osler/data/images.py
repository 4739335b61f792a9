"""Image files: their content digest, and a hardened way to open them.

What `open_image` does to a file, always in this order and nothing else:

1. refused: anything but a regular file; files over 32 MB; other formats than PNG, JPEG, WebP, TIFF, BMP and
   GIF (told by content, not by name); over 40 megapixels or one side over 200 times the other (both read
   from the header, before any pixel is decoded); files that do not decode to the end.
2. of an animation or a multi-page file, the first frame.
3. EXIF rotation is applied.
4. integer or float grey images of more than 8 bits are scaled linearly so that their 0.5th and 99.5th
   percentiles become 0 and 255 (their minimum and maximum where those two coincide; a constant image
   becomes 0). Pillow alone would clip every value above 255 to white.
5. transparency is composited on black.
6. CMYK, palette, grey and the rest become 8-bit RGB by Pillow's own conversion, colour profiles ignored.
   (16-bit colour PNGs are cut to their high byte by Pillow's decoder: 8 bits per channel is all it offers.)
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from osler.errors import BadInput

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
MAX_FILE_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 40_000_000
MAX_SIDE_RATIO = 200  # Qwen2-VL's image processor refuses more
RESCALE_PERCENTILES = (0.5, 99.5)

_EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp", "GIF": "gif"}
_warning_filters = threading.Lock()
_digests: dict[tuple[str, int, int], str] = {}


def image_digest(paths: Sequence[str]) -> str:
    """SHA-256 (hex) of each file's bytes, joined by "+" in the order given; "" for no paths.

    Each file is read once per process as long as its size and modification time stay. Identical pixels in
    differently encoded files have different digests. Raises BadInput where a file cannot be read.
    """
    return "+".join(_digest_of_file(path) for path in paths)


def _digest_of_file(path: str) -> str:
    try:
        status = os.stat(path)
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in _digests:
            with open(path, "rb") as file:
                _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"image {_name(path)}: cannot be read ({error.strerror}); check the file") from None
    return _digests[key]


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the header of an image file says, and what `open_image` will do to it.

    >>> ImageFacts(format="PNG", mode="I;16", width=512, height=512).conversions
    ('rescaled to 8 bits',)
    """

    format: str  # one of FORMATS
    mode: str  # Pillow's mode
    width: int  # pixels, before rotation
    height: int  # pixels, before rotation
    frames: int = 1
    rotated: bool = False  # by EXIF
    transparent: bool = False

    @property
    def extension(self) -> str:
        return _EXTENSIONS[self.format]

    @property
    def conversions(self) -> tuple[str, ...]:
        """The conversions that change what is seen, in the order they are made."""
        found = []
        if self.frames > 1:
            found.append("first frame")
        if self.rotated:
            found.append("EXIF rotated")
        if _is_deep(self.mode):
            found.append("rescaled to 8 bits")
        elif self.transparent:
            found.append("alpha on black")
        if self.mode == "CMYK":
            found.append("CMYK to RGB")
        return tuple(found)


def image_facts(path: str) -> ImageFacts:
    """The header of an image file; no pixel is decoded. Raises BadInput as `open_image` does."""
    with _open_header(path) as image, _quiet():
        try:
            return _facts(image)
        except Exception:
            raise _damaged(_name(path)) from None


def open_image(path: str) -> Image.Image:
    """The image as 8-bit RGB [width x height], made as the module says.

    Raises BadInput with the file's base name; Pillow's own words never appear (they hold memory addresses).
    """
    with _open_header(path) as image:
        try:
            image.load()
            with _quiet():
                upright = ImageOps.exif_transpose(image)
        except Exception:
            raise _damaged(_name(path)) from None
    return _to_rgb(upright)


def fit_pixels(width: int, height: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Width and height within the bounds on their product, aspect ratio kept to rounding.

    >>> fit_pixels(600, 500, 3136, 401408), fit_pixels(2000, 1000, 3136, 401408)
    ((600, 500), (896, 448))
    """
    area = width * height
    if area > max_pixels:
        scale = math.sqrt(max_pixels / area)
        return max(1, math.floor(width * scale)), max(1, math.floor(height * scale))
    if area < min_pixels:
        scale = math.sqrt(min_pixels / area)
        return math.ceil(width * scale), math.ceil(height * scale)
    return width, height


def within_bounds(image: Image.Image, min_pixels: int, max_pixels: int) -> Image.Image:
    """The image itself where its area is within the bounds, else resized (bicubic) to be."""
    size = fit_pixels(*image.size, min_pixels, max_pixels)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


@contextmanager
def _quiet() -> Iterator[None]:
    """No warning of Pillow's: of large images, which our own cap refuses, and of metadata, not of pixels."""
    # Filters are global to the process; two threads would restore each other's.
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open_header(path: str) -> Image.Image:
    """The opened image, not yet decoded, after all checks that its header allows."""
    name = _name(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        raise BadInput(f"image {name}: not there or not readable; check the path") from None
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"image {name}: not a file; give an image file")
    if status.st_size > MAX_FILE_BYTES:
        raise BadInput(
            f"image {name}: {status.st_size / 2**20:.0f} MB, over the cap of {MAX_FILE_BYTES // 2**20} MB; "
            "make it smaller"
        )
    with _quiet():
        try:
            image = Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError:
            raise BadInput(
                f"image {name}: over the cap of {MAX_PIXELS // 10**6} megapixels; make it smaller"
            ) from None
        except Exception:
            raise _damaged(name) from None
    try:
        _check_size(image, name)
    except BadInput:
        image.close()
        raise
    return image


def _damaged(name: str) -> BadInput:
    # Decoders raise nearly every type there is on a damaged file, and their texts may not be shown.
    return BadInput(f"image {name}: damaged, or none of {', '.join(FORMATS)}; replace or convert it")


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        cap = f"{MAX_PIXELS // 10**6} megapixels"
        raise BadInput(f"image {name}: {width} x {height} is over the cap of {cap}; make it smaller")
    if max(width, height) > MAX_SIDE_RATIO * min(width, height):
        raise BadInput(
            f"image {name}: {width} x {height} is narrower than 1 to {MAX_SIDE_RATIO}; crop or pad it"
        )


def _facts(image: Image.Image) -> ImageFacts:
    # Asked for EXIF that its header does not have, Pillow's PNG reader decodes the whole image.
    in_header = image.format != "PNG" or "exif" in image.info
    orientation = image.getexif().get(0x0112, 1) if in_header else 1
    return ImageFacts(
        format=str(image.format),
        mode=image.mode,
        width=image.width,
        height=image.height,
        frames=getattr(image, "n_frames", 1),
        rotated=orientation in range(2, 9),
        transparent=_is_transparent(image),
    )


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info


def _is_deep(mode: str) -> bool:
    return mode in ("I", "F") or mode.startswith("I;16")


def _to_rgb(image: Image.Image) -> Image.Image:
    if _is_deep(image.mode):
        return Image.fromarray(rescale_to_8_bits(np.asarray(image))).convert("RGB")
    if _is_transparent(image):
        # A premultiplied image must go through its own straight form first.
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        transparent = (image.convert(straight) if straight else image).convert("RGBA")
        black = Image.new("RGBA", transparent.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, transparent).convert("RGB")
    return image.convert("RGB")


def rescale_to_8_bits(values: np.ndarray) -> np.ndarray:
    """Grey values [height, width] of any number type, scaled linearly to uint8 between their percentiles.

    >>> rescale_to_8_bits(np.array([[0, 1000], [30000, 65535]])).tolist()
    [[0, 4], [118, 255]]
    """
    numbers = np.nan_to_num(np.asarray(values, dtype=np.float64))
    low, high = np.percentile(numbers, RESCALE_PERCENTILES)
    if high <= low:
        low, high = float(numbers.min()), float(numbers.max())
    if high <= low:
        return np.zeros(numbers.shape, dtype=np.uint8)
    scaled = (np.clip(numbers, low, high) - low) * (255.0 / (high - low))
    return np.rint(scaled).astype(np.uint8)


def _name(path: str) -> str:
    """The base name, fit for a message."""
    base = os.path.basename(path) or path
    return "".join(c if c.isprintable() else "?" for c in base)
