"""What of the test questions was in the training questions: images, images with their stem, wordings.

Images are the same where their files have the same bytes, and copies where their perceptual hashes are near.
Where image files are not at hand the path stands for the image, and copies are not looked for.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from osler.audit.perceptual import NUM_BITS, near_pairs, perceptual_hash
from osler.audit.readers import normal_choice, problem_key, stem_key
from osler.data.images import image_digest, open_image
from osler.errors import BadInput
from osler.processes import spread
from osler.records import Modality, Question

_EXAMPLES = 5
_CHUNK = 32  # images that one worker reads at a time

Progress = Callable[[int, int], None]  # images read, of how many


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of the images that questions name.

    >>> ImageFacts(keys={"a.png": "a.png"}, hashes={}, unreadable=()).num_read
    0
    """

    keys: Mapping[str, str]  # path -> SHA-256 of the file; the path itself where there is no file
    hashes: Mapping[str, NDArray[np.uint64]]  # path -> perceptual hash, of the files read
    unreadable: tuple[str, ...]  # one line each

    @property
    def num_read(self) -> int:
        return len(self.hashes)


@dataclass(frozen=True, slots=True)
class Flagged:
    """One flag per test question, [n], and what is behind each flag that is set."""

    flags: NDArray[np.bool_]
    reasons: Mapping[int, str]  # position -> in words

    def evidence(self, among: NDArray[np.bool_]) -> tuple[str, ...]:
        """The reasons of the first few flags within a part of the questions."""
        return tuple(self.reasons[int(i)] for i in np.flatnonzero(self.flags & among)[:_EXAMPLES])


def read_images(questions: Sequence[Question], workers: int, progress: Progress | None = None) -> ImageFacts:
    """Digest and hash of every image file that exists; a file that cannot be opened is listed."""
    paths = list(dict.fromkeys(path for question in questions for path in question.images))
    files = [path for path in paths if os.path.isfile(path)]
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    keys, hashes, unreadable = {path: path for path in paths}, {}, []
    for read in spread(_read_chunk, chunks, workers):
        for path, digest, bits, problem in read:
            keys[path] = digest or path
            if bits is not None:
                hashes[path] = bits
            if problem:
                unreadable.append(problem)
            if progress is not None:
                progress(len(hashes) + len(unreadable), len(files))
    return ImageFacts(keys, hashes, tuple(unreadable))


_Read = tuple[str, str, NDArray[np.uint64] | None, str]  # path, digest, hash, what is wrong


def _read_chunk(paths: list[str]) -> list[_Read]:
    found: list[_Read] = []
    for path in paths:
        digest = ""
        try:
            digest = image_digest([path])
            found.append((path, digest, perceptual_hash(open_image(path)), ""))
        except BadInput as error:
            found.append((path, digest, None, str(error)))
    return found


def find_overlaps(
    train: Sequence[Question], test: Sequence[Question], images: ImageFacts
) -> dict[str, Flagged]:
    """What of each test question was there in training, or gives its answer away without being read.

    Near copies are left out where no image could be read.
    """
    near = {"near_image_overlap": _near_image_overlap(train, test, images)} if images.hashes else {}
    return {
        "image_overlap": _image_overlap(train, test, images),
        **near,
        "image_question_overlap": _same(
            train, test, lambda q: (_keys(q, images), stem_key(q)) if q.images else None
        ),
        "stem_overlap": _same(train, test, stem_key),
        "problem_overlap": _same(train, test, problem_key),
        "wrong_never_right": _wrong_never_right(train, test),
        "gold_in_path": _gold_in_path(test),
        "equal_choices": _equal_choices(test),
    }


def _keys(question: Question, images: ImageFacts) -> tuple[str, ...]:
    return tuple(images.keys[path] for path in question.images)


def _flagged(test: Sequence[Question], reason: Callable[[Question], str]) -> Flagged:
    """`reason` says why a question is flagged, "" where it is not."""
    found = {i: why for i, question in enumerate(test) if (why := reason(question))}
    flags = np.zeros(len(test), dtype=np.bool_)
    flags[list(found)] = True
    return Flagged(flags, found)


def _same(
    train: Sequence[Question], test: Sequence[Question], key: Callable[[Question], Hashable]
) -> Flagged:
    """Questions whose key (None: has none) a training question has, too."""
    first: dict[Hashable, str] = {}
    for question in train:
        first.setdefault(key(question), question.id)
    first.pop(None, None)
    return _flagged(test, lambda q: f"{q.id} as {first[key(q)]}" if key(q) in first else "")


def _image_overlap(train: Sequence[Question], test: Sequence[Question], images: ImageFacts) -> Flagged:
    first: dict[str, str] = {}
    for question in train:
        for path in question.images:
            first.setdefault(images.keys[path], path)

    def reason(question: Question) -> str:
        for path in question.images:
            same = first.get(images.keys[path])
            if same is not None:
                return path if same == path else f"{path} = {same}"
        return ""

    return _flagged(test, reason)


def _near_image_overlap(train: Sequence[Question], test: Sequence[Question], images: ImageFacts) -> Flagged:
    """Test images that are not in training, but have a near copy there."""
    known = {images.keys[path]: path for q in train for path in q.images if path in images.hashes}
    asked = dict.fromkeys(path for q in test for path in q.images if path in images.hashes)
    new = [path for path in asked if images.keys[path] not in known]
    there = list(known.values())
    pairs = near_pairs([images.hashes[path] for path in new], [images.hashes[path] for path in there])
    near = {new[i]: f"{new[i]} like {there[j]} ({bits} of {NUM_BITS} bits differ)" for i, j, bits in pairs}
    exact = _image_overlap(train, test, images)
    found = _flagged(test, lambda q: next((near[path] for path in q.images if path in near), ""))
    return Flagged(found.flags & ~exact.flags, found.reasons)


def _wrong_never_right(train: Sequence[Question], test: Sequence[Question]) -> Flagged:
    """Questions none of whose wrong choices was ever a right answer in training, modality by modality."""
    ever_right: dict[Modality, set[str]] = defaultdict(set)
    for question in train:
        ever_right[question.modality].add(normal_choice(question.answer))

    def reason(question: Question) -> str:
        wrong = [c for i, c in enumerate(question.choices) if i != question.answer_index]
        known = ever_right.get(question.modality)
        if known is None or any(normal_choice(choice) in known for choice in wrong):
            return ""
        return f"{question.id}: {'; '.join(wrong)}"

    return _flagged(test, reason)


def _gold_in_path(test: Sequence[Question]) -> Flagged:
    """Questions whose image path names the right choice and no wrong one."""
    below = _below_the_common_folder([path for question in test for path in question.images])

    def reason(question: Question) -> str:
        text = " ".join(f" {_as_words(below[path])} " for path in question.images)
        named = [i for i, choice in enumerate(question.choices) if f" {_as_words(choice)} " in text]
        if named != [question.answer_index]:
            return ""
        return f"{question.id}: {question.answer} in {below[question.images[0]]}"

    return _flagged(test, reason)


def _as_words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def _below_the_common_folder(paths: Sequence[str]) -> dict[str, str]:
    """Paths without the folders that all share: those say where a data set lies, not what it shows."""
    folders = {os.path.dirname(path) for path in paths}
    common = os.path.commonpath(folders) if folders and len({os.path.isabs(f) for f in folders}) == 1 else ""
    return {path: os.path.relpath(path, common) if common else path for path in paths}


def _equal_choices(test: Sequence[Question]) -> Flagged:
    def reason(question: Question) -> str:
        normal = [normal_choice(choice) for choice in question.choices]
        twice = [c for c, n in zip(question.choices, normal, strict=True) if normal.count(n) > 1]
        return f"{question.id}: {'; '.join(twice)}" if twice else ""

    return _flagged(test, reason)
