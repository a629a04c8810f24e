"""Grids of images side by side, each under its title."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from ...runtime.image import make_grid

GAP = 16  # pixels between two grids
TITLE_SIZE = 18  # pixels


def side_by_side(
    sets: Mapping[str, Sequence[Image.Image]], columns: int, *, zoom: int
) -> Image.Image:
    """One picture of several sets of images, the same image at the same place in each.

    Args:
        sets: Images of one size and mode, as many in each set, by title.
        columns: Of each grid.
        zoom: Pixels of the picture for a pixel of an image.
    """
    grids = [make_grid(images, columns, zoom=zoom) for images in sets.values()]
    width, height = grids[0].size
    head = 2 * TITLE_SIZE
    size = (len(grids) * (width + GAP) - GAP, head + height)
    whole = Image.new(grids[0].mode, size, "white")
    drawing, font = ImageDraw.Draw(whole), ImageFont.load_default(TITLE_SIZE)
    for index, (title, grid) in enumerate(zip(sets, grids, strict=True)):
        left = index * (width + GAP)
        drawing.text((left, head // 2), title, fill="black", font=font, anchor="lm")
        whole.paste(grid, (left, head))
    return whole
