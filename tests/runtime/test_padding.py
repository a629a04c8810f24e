from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import toy_manifest, write_bundle

from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import load_backend
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.bundle.manifest import CONDITIONER
from pitstop.runtime.image import save_png
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.conditioner import Conditioner
from pitstop.runtime.session import Session

LABELS = [2, 1, 0, 2, 2, 1, 0, 1]
SEEDS = range(40, 48)


def png(pipeline: Pipeline, labels: list[int], path: Path, **settings: object) -> list[bytes]:
    """The bytes of each picture's file."""
    seeds = list(SEEDS)[: len(labels)]
    drawn = pipeline(labels, seeds=seeds, **settings)  # type: ignore[arg-type]
    written = []
    for image in drawn.images:
        save_png(image, path)
        written.append(path.read_bytes())
    return written


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp_2m"])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("cfg_scale", [1.0, 2.5])
def test_a_picture_has_the_same_bytes_in_a_batch_of_1_and_of_8_and_among_1_and_8(
    tmp_path: Path, sampler: str, split: bool, cfg_scale: float
) -> None:
    one, eight = (
        Pipeline.from_bundle(
            write_bundle(tmp_path / str(batch), toy_manifest(batch=batch, split=split))
        )
        for batch in (1, 8)
    )
    path = tmp_path / "picture.png"

    wanted, *others = [
        png(pipeline, LABELS[:images], path, sampler=sampler, steps=6, cfg_scale=cfg_scale)
        for pipeline, images in [(one, 8), (one, 1), (eight, 8), (eight, 1), (eight, 3)]
    ]

    assert len(set(wanted)) == 8
    assert all(other == wanted[: len(other)] for other in others)


@pytest.mark.parametrize("images", range(1, 10))
def test_the_conditioner_is_opened_once_a_run_even_where_the_batch_is_padded(
    tmp_path: Path, images: int
) -> None:
    bundle = open_bundle(write_bundle(tmp_path / "toy", toy_manifest(batch=8, split=True)))
    backend, options = load_backend("onnxruntime"), SessionOptions(threads=1)
    opened = 0

    def open_conditioner() -> Session:
        nonlocal opened
        opened += 1
        return backend.open_graph(bundle.graph(CONDITIONER), options)

    conditioner = Conditioner(open_conditioner, bundle.manifest.graphs[CONDITIONER])
    denoiser = backend.open_graph(bundle.graph("denoiser.fp32"), options)

    with Pipeline(bundle.manifest, denoiser, "fp32", conditioner=conditioner) as pipeline:
        drawn = pipeline([2] * images, steps=5)

    assert opened == 1
    assert np.isfinite(drawn.latents).all()
