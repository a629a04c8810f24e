"""Strips of images below each other, the same image in the same column, each under its title."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

CELL = 84  # pixels that an image is enlarged to at most, by whole pixels
GAP = 4  # pixels between two images
TITLE_SIZE, TEXT_SIZE = 15, 12  # pixels
LINE = 20  # pixels of a line of text
MARGIN = 10  # pixels around all


@dataclass(frozen=True)
class Strip:
    """A row of images.

    Attributes:
        title: Above it.
        images: Of one size, one for each column.
        under: Lines of text below it.
    """

    title: str
    images: Sequence[Image.Image]
    under: Sequence[str] = ()


def stacked(columns: Sequence[str], strips: Sequence[Strip]) -> Image.Image:
    """One picture of several strips; each of ``columns`` is named under the first."""
    zoom = max(1, CELL // max(strips[0].images[0].size))
    width, height = (side * zoom for side in strips[0].images[0].size)
    whole = Image.new(
        "RGB",
        (
            2 * MARGIN + len(columns) * (width + GAP) - GAP,
            2 * MARGIN + LINE + sum(_height(strip, height) for strip in strips),
        ),
        "white",
    )
    drawing, top = ImageDraw.Draw(whole), MARGIN
    for strip in strips:
        _text(drawing, MARGIN, top, strip.title, TITLE_SIZE, "black")
        top += LINE
        for column, image in enumerate(strip.images):
            large = image.resize((width, height), Image.Resampling.NEAREST)
            whole.paste(large, (MARGIN + column * (width + GAP), top))
        top += height
        if strip is strips[0]:
            for column, name in enumerate(columns):
                _text(drawing, MARGIN + column * (width + GAP), top, name, TEXT_SIZE, "#444")
            top += LINE
        for line in strip.under:
            _text(drawing, MARGIN, top, line, TEXT_SIZE, "#444")
            top += LINE
        top += GAP
    return whole


def _height(strip: Strip, images: int) -> int:
    return LINE + images + LINE * len(strip.under) + GAP


def _text(
    drawing: ImageDraw.ImageDraw, left: int, top: int, text: str, size: int, colour: str
) -> None:
    font = ImageFont.load_default(size)
    drawing.text((left, top + LINE // 2), text, fill=colour, font=font, anchor="lm")
