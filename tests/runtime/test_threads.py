"""One pipeline, several threads: each draws what it would draw alone, byte for byte."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bundle_helpers import toy_manifest, with_decoder
from device_helpers import DEVICES, bundle_with_step, open_on

from pitstop import OptionError
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.opened import open_denoiser
from pitstop.runtime.pipeline import Pipeline

THREADS, ROUNDS = 4, 20
RUNS = [  # labels, seeds, steps, sampler, guidance scale
    ([0, 1, 2], [1, 2, 3], 5, "ddim", 3.0),
    ([2], [9], 7, "ddpm", 1.0),
    ([1, 1, 0, 2, 0], [4, 5, 6, 7, 8], 4, "dpmpp_2m", 2.0),
    ([0], [11], 9, "ddim", 1.5),
]


def opened(where: str, folder: Path) -> Pipeline:
    manifest = with_decoder(toy_manifest(batch=4, split=True))
    bundle = bundle_with_step(folder / "toy", manifest)
    if where in DEVICES:
        return Pipeline.of(open_on(where.removesuffix(" on the device"), bundle))
    return Pipeline.of(open_denoiser(open_bundle(folder / "toy"), backend=where.split()[0]))


@pytest.mark.parametrize("where", ["onnxruntime on the host", "openvino on the host", *DEVICES])
def test_threads_that_share_a_pipeline_draw_as_if_alone(tmp_path: Path, where: str) -> None:
    with opened(where, tmp_path) as pipeline:

        def draw(index: int) -> tuple[bytes, list[bytes]]:
            labels, seeds, steps, sampler, cfg_scale = RUNS[index % len(RUNS)]
            drawn = pipeline(labels, seeds=seeds, steps=steps, sampler=sampler, cfg_scale=cfg_scale)
            return drawn.latents.tobytes(), [image.tobytes() for image in drawn.images]

        alone = [draw(index) for index in range(len(RUNS))]
        with ThreadPoolExecutor(THREADS) as pool:
            together = list(pool.map(draw, range(THREADS * ROUNDS)))

    assert together == [alone[index % len(RUNS)] for index in range(THREADS * ROUNDS)]


@pytest.mark.parametrize("where", ["onnxruntime on the host", "openvino on the host", *DEVICES])
def test_a_closed_pipeline_draws_nothing_and_may_be_closed_again(
    tmp_path: Path, where: str
) -> None:
    with opened(where, tmp_path) as pipeline:
        before = pipeline([0], steps=2)

    pipeline.close()

    for ask in (lambda: pipeline([0], steps=2), lambda: before.images):
        with pytest.raises(OptionError, match="This bundle was closed"):
            ask()
    assert pipeline.conditioner is not None
    with pytest.raises(OptionError, match="This bundle was closed"):
        pipeline.conditioner.prepare([0.0], pipeline.manifest.examples(1))


def test_a_pipeline_says_what_it_is(tmp_path: Path) -> None:
    with opened("onnxruntime on the host", tmp_path) as pipeline:
        title, *rows = repr(pipeline).splitlines()
    assert title == "Pipeline: toy, fp32, CPUExecutionProvider"
    assert "  batch     4 rows a call; guidance takes two for an image" in rows
