"""The picture that a run begins with: equal to diffusers' image processor, or refused by name."""

from __future__ import annotations

import dataclasses
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_helpers import FakeSession, one_line, toy_manifest, with_decoder
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from pitstop import BundleError, OptionError
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.init_picture import init_of, read_levels, to_pixels
from pitstop.runtime.pipeline import Pipeline

PIXELS = toy_manifest()  # grey, 8 x 8
RGB = dataclasses.replace(toy_manifest(), latent_shape=(3, 24, 40))
OF_A_VAE = dataclasses.replace(toy_manifest(), latent_shape=(3, 6, 8), latent_space="vae")


class EveryEighth:
    """The encoder of a toy: a latent pixel is the one at its upper left corner."""

    channels, factor = 3, 8

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return image[:, ::8, ::8]


def picture(mode: str = "RGB", size: tuple[int, int] = (80, 48), seed: int = 0) -> Image.Image:
    shape = (*size[::-1], len(Image.new(mode, (1, 1)).getbands()))
    levels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(levels.squeeze(), mode)


def begun(image: Path | Image.Image, manifest: Manifest = RGB) -> np.ndarray:
    return init_of(manifest, None, image, None, None).latent


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(80, 48), (40, 24), (20, 12)])
def test_pixels_are_those_of_diffusers_image_processor(mode: str, size: tuple[int, int]) -> None:
    image = picture(mode, size)
    processor = VaeImageProcessor(vae_scale_factor=1)
    wanted = processor.preprocess(image.convert("RGB"), height=24, width=40)[0].numpy()

    np.testing.assert_allclose(begun(image), wanted, atol=1e-6)


def test_a_mask_is_that_of_diffusers_on_the_latent() -> None:
    mask = picture("L", (64, 64), seed=2)
    processor = VaeImageProcessor(
        vae_scale_factor=1, do_normalize=False, do_binarize=True, do_convert_grayscale=True
    )
    wanted = processor.preprocess(mask, height=8, width=8)[0, 0].numpy()

    init = init_of(PIXELS, None, picture("L", (8, 8)), None, mask)

    assert init.mask is not None
    np.testing.assert_array_equal(init.mask, wanted)
    assert 0 < init.mask.mean() < 1


def test_a_mask_of_a_vaes_images_is_the_nearest_pixel_of_it() -> None:
    mask = picture("L", (64, 48), seed=3)
    levels = read_levels(mask, "L", (64, 48), "mask")
    white = torch.from_numpy((levels >= 128).astype(np.float32))[None, None]
    wanted = torch.nn.functional.interpolate(white, size=(6, 8))[0, 0].numpy()

    init = init_of(OF_A_VAE, EveryEighth(), picture(size=(64, 48)), None, mask)

    assert init.latent.shape == OF_A_VAE.latent_shape
    assert init.mask is not None
    np.testing.assert_array_equal(init.mask, wanted)


@pytest.mark.parametrize(
    ("mask", "found"), [("black", "black in all of the latent"), ("fine", "finer than 8 pixels")]
)
def test_a_mask_that_draws_nothing_anew_is_refused(mask: str, found: str) -> None:
    levels = np.zeros((48, 64), np.uint8)
    levels[3, 5] = 255 if mask == "fine" else 0
    with pytest.raises(OptionError) as caught:
        init_of(OF_A_VAE, EveryEighth(), picture(size=(64, 48)), None, Image.fromarray(levels, "L"))
    assert found in one_line(caught.value)


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    image = picture("RGB", (24, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # held a quarter turn to the left
    image.save(tmp_path / "turned.png", exif=exif)

    np.testing.assert_array_equal(
        begun(tmp_path / "turned.png"), begun(image.transpose(Image.Transpose.ROTATE_270))
    )


def test_an_opaque_alpha_and_a_palette_change_nothing(tmp_path: Path) -> None:
    image = picture("RGB", (40, 24))
    opaque = image.convert("RGBA")
    np.testing.assert_array_equal(begun(opaque), begun(image))

    few = image.quantize(16)
    few.save(tmp_path / "few.gif")
    np.testing.assert_array_equal(begun(tmp_path / "few.gif"), begun(few.convert("RGB")))


def clear(path: Path) -> None:
    image = picture("RGBA", (40, 24))
    image.putalpha(Image.new("L", (40, 24), 128))
    image.save(path)


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.full((24, 40), 40_000, np.uint16)).save(path)


def wide_png(colour: int, channels: int) -> Callable[[Path], None]:
    """A PNG of 16 bits a channel, which Pillow opens as one of 8."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    def write(path: Path) -> None:
        levels = np.full((24, 40, channels), 0xFFFF, ">u2")
        head = struct.pack(">IIBBBBB", 40, 24, 16, colour, 0, 0, 0)
        rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in levels))
        chunks = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)

    return write


def wide_tiff(path: Path) -> None:
    picture("RGB", (40, 24)).save(path, "TIFF")
    content, bits = path.read_bytes(), struct.pack("<HHH", 8, 8, 8)
    assert content.count(bits) == 1
    path.write_bytes(content.replace(bits, struct.pack("<HHH", 16, 16, 16)) + bytes(9000))


def wide_ppm(path: Path) -> None:
    path.write_bytes(b"P6\n40 24\n65535\n" + bytes(40 * 24 * 6))


def damaged_avif(path: Path) -> None:
    picture("RGB", (40, 24)).save(path, "AVIF")
    content = path.read_bytes()
    path.write_bytes(content[:-60] + bytes(60))


def broken_stream(path: Path) -> None:
    """One that Pillow's reader says SyntaxError or zlib's own error of."""
    picture().save(path)
    content = bytearray(path.read_bytes())
    content[60:400] = bytes(340)
    path.write_bytes(content)


def frames(path: Path) -> None:
    first, second = picture("RGB", (40, 24)), picture("RGB", (40, 24), seed=1)
    first.save(path, save_all=True, append_images=[second])


def cut_short(path: Path) -> None:
    picture().save(path)
    path.write_bytes(path.read_bytes()[:900])


REFUSED = {
    "clear": (clear, "is transparent in places"),
    "sixteen_bits": (sixteen_bits, "of the mode I;16, not of 8 bits"),
    "wide_rgb": (wide_png(2, 3), "more than 8 bits"),
    "wide_grey_alpha": (wide_png(4, 2), "more than 8 bits"),
    "wide_rgba": (wide_png(6, 4), "more than 8 bits"),
    "wide_tiff": (wide_tiff, "more than 8 bits"),
    "wide_ppm": (wide_ppm, "more than 8 bits"),
    "damaged_avif": (damaged_avif, "cannot be read"),
    "broken_stream": (broken_stream, "cannot be read"),
    "pipe": (os.mkfifo, "cannot be read (it is no file)"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "cannot be read (it is no file)"),
    "frames": (frames, "has 2 frames"),
    "cut_short": (cut_short, "cannot be read"),
    "text": (lambda path: path.write_text("hello"), "cannot be read"),
    "wide": (lambda path: picture("RGB", (40, 40)).save(path), "is 40 x 40 pixels"),
    "folder": (lambda path: path.mkdir(), "cannot be read"),
    "nothing": (lambda path: None, "There is no image at"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_change_the_picture_without_a_word_is_refused(kind: str, tmp_path: Path) -> None:
    write, found = REFUSED[kind]
    path = tmp_path / "image.png"
    write(path)

    with pytest.raises(OptionError) as caught:
        begun(path)

    message = one_line(caught.value)
    assert found in message
    assert str(path) in message


def test_a_picture_of_pillows_that_is_cut_off_or_wide_is_refused_too(tmp_path: Path) -> None:
    cut_short(tmp_path / "cut.png")
    wide_png(2, 3)(tmp_path / "wide.png")
    for name, found in (("cut", "cannot be read"), ("wide", "more than 8 bits")):
        with (
            Image.open(tmp_path / f"{name}.png") as image,
            pytest.raises(OptionError) as caught,
        ):
            begun(image)
        assert found in one_line(caught.value)


def test_a_large_picture_is_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture("RGB", (40, 24)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)

    assert begun(tmp_path / "large.png").shape == (3, 24, 40)


def test_five_and_six_bits_a_channel_are_no_more_than_eight(tmp_path: Path) -> None:
    levels = np.zeros((24, 40), "<u2")
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    info = struct.pack("<IiiHHIIiiII", 40, 40, 24, 1, 16, 3, levels.nbytes, 0, 0, 0, 0)
    start = 14 + len(info) + len(masks)
    file = b"BM" + struct.pack("<IHHI", start + levels.nbytes, 0, 0, start)
    (tmp_path / "a.bmp").write_bytes(file + info + masks + levels.tobytes())

    assert (begun(tmp_path / "a.bmp") == -1).all()


@pytest.mark.parametrize("strength", [0, -0.5, 1.01, float("nan"), "much"])
def test_a_strength_outside_is_refused(strength: object) -> None:
    with pytest.raises(OptionError, match="strength") as caught:
        init_of(PIXELS, None, picture("L", (8, 8)), strength, None)  # type: ignore[arg-type]
    assert "above 0, up to 1" in one_line(caught.value)


@pytest.mark.parametrize("given", [{"strength": 0.5}, {"mask": "mask.png"}])
def test_a_strength_or_a_mask_without_an_image_is_refused(given: dict[str, object]) -> None:
    pipeline = Pipeline(PIXELS, FakeSession(), "fp32")
    [name] = given
    with pytest.raises(OptionError) as caught:
        pipeline([0], **given)  # type: ignore[arg-type]
    assert f"A {name} was given, but no image" in one_line(caught.value)


def test_a_bundle_without_an_encoder_says_how_to_get_one() -> None:
    pipeline = Pipeline(with_decoder(PIXELS), FakeSession(), "fp32")
    with pytest.raises(BundleError) as caught:
        pipeline([0], init=picture("L", (16, 16)))
    message = one_line(caught.value)
    assert "no encoder" in message
    assert "Export it again with `--vae DIR`" in message


def test_a_pictures_pixels_come_back_as_they_were() -> None:
    from pitstop.runtime.image import to_images

    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    [image] = to_images(to_pixels(levels)[None])
    np.testing.assert_array_equal(np.asarray(image), levels)


def test_python_takes_a_file_an_image_and_what_was_made_of_one(tmp_path: Path) -> None:
    image = picture("L", (8, 8))
    image.save(tmp_path / "a.png")
    pipeline = Pipeline(PIXELS, FakeSession(), "fp32")

    made = pipeline.begin_with(image, 0.5)
    drawn = [
        pipeline([1], steps=4, init=init, strength=strength).latents
        for init, strength in ((image, 0.5), (tmp_path / "a.png", 0.5), (made, None))
    ]

    assert made is not None
    assert made.facts.keys() == {"init_sha256"}
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])
    for other in (
        Pipeline(RGB, FakeSession(), "fp32").begin_with,
        lambda init: pipeline.begin_with(init, 0.3),
        lambda init: pipeline.begin_with(init, mask=image),
    ):
        with pytest.raises(OptionError, match=r"What to begin with is \[1, 8, 8\]|are a part of"):
            other(made)
    with pytest.raises(OptionError, match="The image is 5"):
        pipeline([1], init=5)  # type: ignore[arg-type]
