"""From latents to pixels: tiles, their seams, and a bundle with a decoder in it."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import (
    SHAPE,
    FakeSession,
    one_line,
    some_latent,
    toy_image,
    toy_manifest,
    with_decoder,
    write_bundle,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pitstop import BundleError, NonFiniteError, OptionError
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.decoder import TiledDecoder, cut
from pitstop.runtime.image import read_parameters
from pitstop.runtime.jobs import draw_images
from pitstop.runtime.jobs.plan import plan_images
from pitstop.runtime.pipeline import Pipeline, Samples
from pitstop.runtime.sampling.settings import Settings
from pitstop.runtime.session import Array

SETTINGS = Settings(steps=3, cfg_scale=2.0)


class FakeDecoder:
    """The toy's decoder without a file, which keeps what it was fed."""

    device = "fake"

    def __init__(self) -> None:
        self.calls: list[Array] = []
        self.closed = False

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.calls.append(feeds["latent"])
        return {"image": np.tanh(feeds["latent"]).repeat(2, axis=2).repeat(2, axis=3)}

    def close(self) -> None:
        self.closed = True


class Steps(FakeDecoder):
    """A decoder whose image is as bright as the number of the call, as a norm might make it."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        image = super().run(feeds)["image"]
        return {"image": np.full_like(image, len(self.calls))}


class Broken(FakeDecoder):
    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {"image": np.full((1, 1, 16, 16), np.nan, np.float32)}


def decoder(session: FakeDecoder, *, batch: int = 1, tile: int = 8) -> TiledDecoder:
    manifest = with_decoder(toy_manifest(), batch=batch, tile=tile)
    return TiledDecoder(lambda: session, manifest.graphs["decoder.fp32"], manifest)


def images(decode: TiledDecoder, latents: Array) -> Array:
    return np.concatenate(list(decode(latents)))


def pixels(picture: Image.Image) -> Array:
    return np.asarray(picture).astype(np.float32) / 127.5 - 1.0


def test_an_axis_of_one_tile_is_left_whole() -> None:
    [tile] = cut(8, 8, 2)

    assert (tile.latent, tile.image) == (slice(0, 8), slice(0, 16))
    assert (tile.weights == 1.0).all()


def test_two_tiles_fade_linearly_into_each_other() -> None:
    first, second = cut(6, 4, 2)

    assert (first.latent, second.latent) == (slice(0, 4), slice(2, 6))
    np.testing.assert_allclose(first.weights, [1, 1, 1, 1, 0.875, 0.625, 0.375, 0.125])
    np.testing.assert_allclose(second.weights, first.weights[::-1])


@given(st.data())
def test_tiles_cover_an_axis_share_a_quarter_and_weigh_one_in_all(data: st.DataObject) -> None:
    tile = data.draw(st.integers(1, 24))
    length = data.draw(st.integers(tile, 100))
    factor = data.draw(st.sampled_from([1, 2, 8]))

    tiles = cut(length, tile, factor)

    total = np.zeros(length * factor)
    for part in tiles:
        total[part.image] += part.weights
        assert part.latent.stop - part.latent.start == tile
    np.testing.assert_allclose(total, 1.0, rtol=1e-6)
    assert (tiles[0].latent.start, tiles[-1].latent.stop) == (0, length)
    shared = [a.latent.stop - b.latent.start for a, b in itertools.pairwise(tiles)]
    assert all(width >= tile // 4 for width in shared)


@pytest.mark.parametrize(("tile", "calls"), [(8, 1), (7, 4), (4, 9), (3, 9)])
def test_a_latent_in_tiles_is_the_same_image_as_the_whole(tile: int, calls: int) -> None:
    """The toy's decoder looks at a pixel alone, so every difference would be a seam."""
    session, latent = FakeDecoder(), some_latent(1)

    found = images(decoder(session, tile=tile), latent)

    assert len(session.calls) == calls
    np.testing.assert_allclose(found, toy_image(latent), rtol=0, atol=1e-6)


def test_tiles_of_other_brightness_leave_no_edge() -> None:
    [found] = images(decoder(Steps(), tile=5), some_latent(1))[:, 0]

    jumps = max(np.abs(np.diff(found, axis=axis)).max() for axis in (0, 1))
    assert (found.min(), found.max()) == (1.0, 4.0)  # four tiles
    assert jumps <= 2.0 / 4.0 + 1e-6  # from one row of tiles to the next, over four pixels


def test_the_last_call_is_padded_and_its_padding_is_not_returned() -> None:
    session, latents = FakeDecoder(), some_latent(3)

    found = images(decoder(session, batch=2), latents)

    assert [call.shape for call in session.calls] == [(2, *SHAPE)] * 2
    np.testing.assert_allclose(found, toy_image(latents), rtol=0, atol=1e-6)


def test_the_graph_is_opened_with_the_first_latent_and_closed_on_demand() -> None:
    opened: list[FakeDecoder] = []

    def open_session() -> FakeDecoder:
        opened.append(FakeDecoder())
        return opened[-1]

    manifest = with_decoder(toy_manifest())
    decode = TiledDecoder(open_session, manifest.graphs["decoder.fp32"], manifest)
    assert opened == []

    images(decode, some_latent(2))
    decode.close()

    [session] = opened
    assert session.closed


def test_an_image_that_is_not_finite_is_told_with_the_precision_to_try() -> None:
    with pytest.raises(NonFiniteError) as caught:
        images(decoder(Broken()), some_latent(1))

    assert "The decoder gave an image that is not finite" in one_line(caught.value)
    assert "--precision fp32" in str(caught.value)


@pytest.mark.parametrize("tile", [8, 5])
def test_a_bundle_with_a_decoder_draws_pictures(tmp_path: Path, tile: int) -> None:
    bundle = write_bundle(tmp_path / "bundle", with_decoder(toy_manifest(), tile=tile))

    drawn = Pipeline.from_bundle(bundle)([0, 2, 1], steps=3)

    assert [picture.size for picture in drawn.images] == [(16, 16)] * 3
    found = np.stack([pixels(picture) for picture in drawn.images])
    np.testing.assert_allclose(found, toy_image(drawn.latents)[:, 0], rtol=0, atol=1 / 127.5)


def test_without_a_decoder_latents_cannot_be_shown_and_the_message_names_the_option() -> None:
    with pytest.raises(OptionError, match=r"no decoder.*--vae DIR.*latents"):
        _ = Samples(some_latent(1), "vae").images


def test_a_run_writes_pictures_that_depend_on_the_decoder(tmp_path: Path) -> None:
    manifest = with_decoder(toy_manifest())
    pipeline = Pipeline.from_bundle(write_bundle(tmp_path / "bundle", manifest))
    plan = plan_images(pipeline.manifest, [], 3, 0)

    done = draw_images(pipeline, plan, SETTINGS, tmp_path / "out")

    names = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert names == ["000000-shirt.png", "000001-shoe.png", "000002-bag.png", "grid.png"]
    assert done.why_no_grid == ""
    assert 0.0 < done.seconds_saving < done.seconds
    parameters = read_parameters(tmp_path / "out" / names[0])
    assert parameters is not None
    files = pipeline.manifest.files
    assert parameters["decoder_sha256"] == files["decoder.fp32.onnx"]
    assert draw_images(pipeline, plan, SETTINGS, tmp_path / "out").kept == 3
    files = {**files, "decoder.fp32.onnx": 64 * "0"}
    other = dataclasses.replace(pipeline.manifest, files=files)
    pipeline = Pipeline(other, pipeline.session, "fp32", decode=pipeline.decode)
    with pytest.raises(OptionError, match=r"was drawn with decoder_sha256 .* this run has"):
        draw_images(pipeline, plan, SETTINGS, tmp_path / "out")


def test_the_decoder_goes_with_the_denoisers_precision() -> None:
    manifest = with_decoder(toy_manifest())
    full = manifest.graphs["decoder.fp32"]
    half = dataclasses.replace(full, path="decoder.fp16.onnx")
    both = dataclasses.replace(manifest, graphs={**manifest.graphs, "decoder.fp16": half})

    assert [both.decoder(name) for name in ("fp32", "bf16", "fp16", "int8")] == [full, *3 * [half]]
    assert manifest.decoder("fp16") == full
    assert toy_manifest().decoder("fp32") is None
    assert not Pipeline(manifest, FakeSession(), "fp32").gives_pictures


@pytest.mark.parametrize(
    ("side", "shape"),
    [
        ("inputs", (1, 4, 8, 8)),
        ("inputs", (1, 1, 16, 8)),
        ("inputs", (1, 1, 8)),
        ("outputs", (2, 1, 16, 16)),
        ("outputs", (1, 2, 16, 16)),
        ("outputs", (1, 1, 16, 24)),
        ("outputs", (1, 1, 4, 4)),
    ],
)
def test_a_decoder_that_does_not_go_with_the_latent_is_refused(
    side: str, shape: tuple[int, ...]
) -> None:
    content = json.loads(with_decoder(toy_manifest()).to_json())
    content["graphs"]["decoder.fp32"][side][0]["shape"] = shape

    with pytest.raises(BundleError, match="decoder") as caught:
        Manifest.from_json(json.dumps(content))

    assert str(shape) in one_line(caught.value)
