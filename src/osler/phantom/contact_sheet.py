"""One picture to look a phantom over: some images of every modality with question and answer."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from osler.phantom.questions import DATASETS, IMAGINGS
from osler.phantom.scene import Scene
from osler.records import Question

CELL = 168  # pixels
CAPTION_LINES = 4
ANSWER = "Answer: "
_LINE, _GAP, _FONT_SIZE, _LINE_CHARACTERS = 13, 8, 11, 29


def draw_contact_sheet(
    rows: Sequence[tuple[Sequence[Scene], Sequence[Question]]], columns: int = 6
) -> Image.Image:
    """One row per modality with `columns` of its scenes; under each its first question and the answer.

    The questions of a row follow its scenes in order, the same number for each.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    wide, high = CELL + _GAP, CELL + CAPTION_LINES * _LINE + _GAP
    sheet = Image.new("RGB", (columns * wide + _GAP, len(rows) * (high + _LINE + 2) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (scenes, questions) in enumerate(rows):
        top = row * (high + _LINE + 2) + _GAP
        draw.text((_GAP, top), DATASETS[scenes[0].modality], fill="black", font=font)
        top += _LINE + 2
        for column, scene in enumerate(scenes[:columns]):
            left = column * wide + _GAP
            pixels = IMAGINGS[scene.modality].render(scene, CELL)
            sheet.paste(Image.fromarray(pixels).convert("RGB"), (left, top))
            question = questions[column * (len(questions) // len(scenes))]
            lines = textwrap.wrap(question.text, _LINE_CHARACTERS)
            asked = len(lines)
            lines += textwrap.wrap(ANSWER + question.answer, _LINE_CHARACTERS)
            for number, line in enumerate(lines[:CAPTION_LINES]):
                ink = "#8a1c1c" if number >= asked else "black"
                draw.text((left, top + CELL + 2 + number * _LINE), line, fill=ink, font=font)
    return sheet
