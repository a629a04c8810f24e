"""An encoder that looks at single latent pixels gives the same whole and in tiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
from bundle_helpers import one_line, toy_manifest

from pitstop import BundleError, NonFiniteError
from pitstop.runtime.bundle.manifest import ENCODER, GraphSpec, Manifest, TensorSpec
from pitstop.runtime.encoder import TiledEncoder, encoder_latent
from pitstop.runtime.session import Array


def manifest(tile: int, factor: int = 2) -> Manifest:
    """Of latents of 1 x 8 x 20."""
    spec = GraphSpec(
        path="encoder.fp32.onnx",
        inputs=(TensorSpec("image", (1, 1, min(tile, 8) * factor, tile * factor), "float32"),),
        outputs=(TensorSpec("latent", (1, 1, min(tile, 8), tile), "float32"),),
        opset=18,
        nodes={"AveragePool": 1},
        weight_bytes=0,
    )
    return dataclasses.replace(
        toy_manifest(),
        latent_space="vae",
        latent_shape=(1, 8, 20),
        latent_scale=2.5,
        latent_shift=0.25,
        graphs={ENCODER: spec},
    )


class Pooling:
    """Takes the mean of each 2 x 2 pixels; refuses shapes that it was not traced for."""

    device = "fake"
    closed = False

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.calls = shape, 0

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        image = feeds["image"]
        assert image.shape == self.shape
        self.calls += 1
        _, _, rows, columns = image.shape
        latent = image.reshape(1, 1, rows // 2, 2, columns // 2, 2).mean(axis=(3, 5))
        return {"latent": latent.astype(np.float32)}

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("tile", "calls"), [(20, 1), (8, 3), (5, 10)])
def test_tiles_fade_into_what_the_whole_is(tile: int, calls: int) -> None:
    known = manifest(tile)
    spec = known.graphs[ENCODER]
    session = Pooling(spec.inputs[0].shape)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 16, 40)).astype(np.float32)

    found = TiledEncoder(lambda: session, spec, known)(image)

    pooled = image.reshape(1, 8, 2, 20, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(found, (pooled - 0.25) * 2.5, atol=1e-6)
    assert found.dtype == np.float32
    assert session.calls == calls
    assert session.closed


def test_a_latent_that_is_not_finite_is_told_and_the_memory_given_back() -> None:
    known = manifest(20)
    spec = known.graphs[ENCODER]
    session = Pooling(spec.inputs[0].shape)
    with pytest.raises(NonFiniteError) as caught:
        TiledEncoder(lambda: session, spec, known)(np.full((1, 16, 40), np.nan, np.float32))
    assert "The encoder gave a latent that is not finite" in one_line(caught.value)
    assert session.closed


def test_what_an_encoder_gives_is_undone_by_what_a_decoder_takes() -> None:
    from pitstop.runtime.decoder import decoder_latent

    latent = np.random.default_rng(0).standard_normal((1, 4, 2, 2)).astype(np.float32)
    known = manifest(20)
    np.testing.assert_allclose(
        decoder_latent(encoder_latent(latent, known), known), latent, atol=1e-6
    )


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"inputs": ((1, 1, 12, 40),)}, "do not go with a latent"),
        ({"inputs": ((2, 1, 16, 40),), "outputs": ((2, 1, 8, 20),)}, "takes 2 images, not one"),
        ({"outputs": ((1, 2, 8, 20),)}, "do not go with a latent"),
        ({"inputs": ((1, 1, 32),)}, "not one image and one latent"),
    ],
)
def test_an_encoder_of_other_shapes_is_refused(
    change: Mapping[str, tuple[tuple[int, ...], ...]], found: str
) -> None:
    known = manifest(20)
    sides = {
        side: tuple(TensorSpec(side, shape, "float32") for shape in shapes)
        for side, shapes in change.items()
    }
    spec = dataclasses.replace(known.graphs[ENCODER], **sides)
    denoiser = toy_manifest().graphs["denoiser.fp32"]
    wide = [
        dataclasses.replace(tensor, shape=(2, 1, 8, 20)) if len(tensor.shape) == 4 else tensor
        for tensor in (*denoiser.inputs, *denoiser.outputs)
    ]
    whole = dataclasses.replace(denoiser, inputs=tuple(wide[:-1]), outputs=(wide[-1],))
    written = dataclasses.replace(known, graphs={"denoiser.fp32": whole, ENCODER: spec})

    with pytest.raises(BundleError, match=found):
        Manifest.from_json(written.to_json())
