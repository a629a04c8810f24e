"""The picture that a run begins with: read as it stands, brought to the bundle's size, encoded.

Sizes and numbers are diffusers' own: Lanczos, then [-1, 1]; a mask is white from half on, and a
latent pixel takes what the mask has at its upper left corner. What would change the picture without
a word is refused: another shape, transparency, more than 8 bits, several frames.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .. import BundleError, OptionError
from .bundle.manifest import Manifest
from .decoder import Pixels
from .encoder import Encode, encoder_latent
from .said import reason, shortly
from .sampling.asked import a_number
from .sampling.init import Init, sha256_of
from .sampling.sampler import Latent

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = str | os.PathLike[str] | Image

STRENGTH, MASKED_STRENGTH = 0.8, 1.0  # by default, as in diffusers
EIGHT_BITS = ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr")
HALF = 128  # of 255, and above: white
ANOTHER = "Save it as a PNG or JPEG of 8 bits, or name another one"

Levels = npt.NDArray[np.uint8]


def init_of(
    manifest: Manifest,
    encode: Encode | None,
    picture: Picture,
    strength: float | None,
    mask: Picture | None,
) -> Init:
    """What runs begin with.

    Args:
        manifest: Of the bundle.
        encode: From pixels to latents; None where they are the same, or there is no encoder.
        picture: The image.
        strength: The share of the steps that it is drawn through; None for diffusers' default.
        mask: White where it is drawn anew.

    Raises:
        OptionError: The picture, the mask or the strength cannot be begun with.
        BundleError: The bundle has no encoder.
    """
    default = STRENGTH if mask is None else MASKED_STRENGTH
    strength = _a_strength(default if strength is None else strength)
    channels, factor = _image_of(manifest, encode)
    _, rows, columns = manifest.latent_shape
    size = columns * factor, rows * factor
    levels = read_levels(picture, "L" if channels == 1 else "RGB", size, "image")
    facts = {"init_sha256": sha256_of(levels)}
    kept = None
    if mask is not None:
        kept = _latent_mask(read_levels(mask, "L", size, "mask"), factor)
        facts["mask_sha256"] = sha256_of(kept.astype(np.uint8))
    pixels = to_pixels(levels)
    latent = encoder_latent(pixels, manifest) if encode is None else encode(pixels)
    return Init(latent, strength, kept, facts)


def refuse_alone(strength: float | None, mask: Picture | None) -> None:
    """Refuse what says how a picture is begun with where there is none.

    Raises:
        OptionError: There is a strength or a mask.
    """
    given = "mask" if mask is not None else "strength" if strength is not None else None
    if given is not None:
        raise OptionError(
            f"A {given} was given, but no image to begin with",
            f"Name one with `--init` (`init=` in Python), or leave the {given} out",
        )


def taken_as_it_is(
    init: Init, manifest: Manifest, strength: float | None, mask: Picture | None
) -> Init:
    """What was made of a picture before.

    Raises:
        OptionError: It is of another size than the bundle's, or more is said of it.
    """
    if strength is not None or mask is not None:
        raise OptionError(
            "Strength and mask are a part of what a picture was made into",
            "Say them to `begin_with`, or give the picture itself",
        )
    if init.latent.shape != manifest.latent_shape:
        raise OptionError(
            f"What to begin with is {list(init.latent.shape)} large, and this bundle's latents are "
            f"{list(manifest.latent_shape)}",
            "Make it with this pipeline's `begin_with`",
        )
    return init


def read_levels(picture: Picture, mode: str, size: tuple[int, int], what: str) -> Levels:
    """A picture's pixels in 8 bits.

    Args:
        picture: A file, or an image of Pillow's.
        mode: ``L`` or ``RGB``.
        size: Columns and rows to bring it to.
        what: It is, in messages.

    Returns:
        uint8 [row, column], and [..., channel] in RGB.

    Raises:
        OptionError: It cannot be read, or not be brought to that without changing what it shows.
    """
    from PIL import Image

    image, named = _read(picture, what)
    _check_shape(image.size, size, named)
    shown = image.convert(mode).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(shown, dtype=np.uint8)


def to_pixels(levels: Levels) -> Pixels:
    """float32 [channel, row, column] in [-1, 1]."""
    columns_last = levels[None] if levels.ndim == 2 else np.moveaxis(levels, 2, 0)
    share = columns_last.astype(np.float32) / np.float32(255)
    return 2 * share - 1


def _read(picture: Picture, what: str) -> tuple[Image, str]:
    """A picture the right way up, and what messages call it."""
    from PIL import Image

    from .picture import BROKEN, open_picture

    if not isinstance(picture, Image.Image | str | os.PathLike):
        raise OptionError(
            f"The {what} is {shortly(picture)}", "Give the path of a file, or an image of Pillow's"
        )
    named = f"The {what}"
    try:
        if isinstance(picture, Image.Image):
            return _upright(picture, named), named
        named = f"{named} {os.fspath(picture)}"
        with open_picture(picture) as image:
            return _upright(image, named), named
    except FileNotFoundError as error:
        raise OptionError(f"There is no {what} at {picture}", "Name another file") from error
    except BROKEN as error:
        raise OptionError(f"{named} cannot be read ({reason(error)})", ANOTHER) from error


def _upright(image: Image, named: str) -> Image:
    """A copy of what is of a kind that can be begun with, turned as its EXIF says."""
    from PIL import ImageOps

    _check_kind(image, named)
    image.load()
    return ImageOps.exif_transpose(image)


def _check_kind(image: Image, named: str) -> None:
    from .picture import has_wide_channels

    if image.mode not in EIGHT_BITS:
        raise OptionError(f"{named} has pixels of the mode {image.mode}, not of 8 bits", ANOTHER)
    if has_wide_channels(image):
        raise OptionError(f"{named} has channels of more than 8 bits", ANOTHER)
    if getattr(image, "n_frames", 1) > 1:
        raise OptionError(
            f"{named} has {getattr(image, 'n_frames', 1)} frames", "Save one of them by itself"
        )
    if image.has_transparency_data:
        least, _ = image.convert("RGBA").getchannel("A").getextrema()
        if least != 255:
            raise OptionError(
                f"{named} is transparent in places, and nothing says what is behind it",
                "Lay it over a colour, and save it without transparency",
            )


def _check_shape(found: tuple[int, int], wanted: tuple[int, int], named: str) -> None:
    """Refuse a picture that another shape would stretch by a pixel or more."""
    (columns, rows), (wide, high) = found, wanted
    if abs(columns * high - rows * wide) >= max(columns, rows):
        raise OptionError(
            f"{named} is {columns} x {rows} pixels (width x height), and the bundle draws {wide} x "
            f"{high}",
            f"Crop it to the shape of {wide} x {high}; its size is then changed here",
        )


def _latent_mask(levels: Levels, factor: int) -> Latent:
    """float32 [row, column] of the latent, 1 where it is drawn anew."""
    white = levels >= HALF
    mask = white[::factor, ::factor]
    if not mask.any():
        raise OptionError(
            "The mask is black in all of the latent, so nothing is drawn anew"
            + (f": its white is finer than {factor} pixels" if white.any() else ""),
            "Paint what is to be drawn anew white, in larger areas",
        )
    return mask.astype(np.float32)


def _image_of(manifest: Manifest, encode: Encode | None) -> tuple[int, int]:
    """The channels of a bundle's images, and their pixels along one side of a latent pixel."""
    if manifest.latent_space == "pixel":
        return manifest.latent_shape[0], 1
    if encode is None:
        raise BundleError(
            "This bundle has no encoder, so no image can be begun with",
            "Export it again with `--vae DIR`, which writes the VAE's encoder too",
        )
    return encode.channels, encode.factor


def _a_strength(given: object) -> float:
    wanted = "a strength above 0, up to 1"
    strength = a_number(given, "The strength", wanted)
    if not 0 < strength <= 1:
        raise OptionError(f"The strength is {strength:g}", f"Choose {wanted}")
    return strength
