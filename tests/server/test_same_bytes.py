"""An image is what ``pitstop generate`` draws, byte for byte, whatever else is in flight."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bundle_helpers import toy_manifest, write_bundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_helpers import ONE_THREAD, Client, serving_bundle

from pitstop.runtime.jobs import draw_images
from pitstop.runtime.jobs.plan import plan_images
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.settings import Settings

Fields = dict[str, Any]
CLASSES = 3
SMALL_PIT = Path(__file__).parents[1] / "data" / "version_2" / "bundle"

guidance = st.one_of(
    st.just({"cfg_scale": 1.0}),
    st.fixed_dictionaries({"cfg_scale": st.sampled_from([0.0, 1.5, 4.0])}),
    st.fixed_dictionaries({
        "cfg_scale": st.sampled_from([2.0, 3.0]),
        "cfg_interval": st.sampled_from(["0:500", "300:1000"]),
    }),
)
rules = st.one_of(
    st.fixed_dictionaries({
        "sampler": st.sampled_from(["ddim", "ddpm", "dpmpp_2m", "unipc", "euler"]),
        "steps": st.integers(2, 9),
    }),
    st.fixed_dictionaries({
        "sampler": st.just("ddim"),
        "steps": st.integers(6, 9),
        "calls": st.integers(4, 5),
    }),
)
asked = st.builds(
    lambda *parts: {name: value for part in parts for name, value in part.items()},
    st.fixed_dictionaries({
        "label": st.integers(0, CLASSES - 1),
        "seed": st.integers(0, 2**64 - 4),
        "n": st.integers(1, 3),
    }),
    rules,
    guidance,
)


def generated(pipeline: Pipeline, fields: Fields, out: Path) -> list[bytes]:
    """The files of the same images, as the command writes them."""
    own = {"label", "seed", "n"}
    chosen = Settings(**{name: value for name, value in fields.items() if name not in own})
    plan = plan_images(pipeline.manifest, [fields["label"]], fields["n"], fields["seed"])
    draw_images(pipeline, plan, chosen, out)
    return [(out / f"{image.stem}.png").read_bytes() for image in plan]


def together(client: Client, mix: list[Fields]) -> list[list[bytes]]:
    with ThreadPoolExecutor(len(mix)) as clients:
        return list(clients.map(client.pngs, mix))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("same") / "toy"
    return write_bundle(folder, toy_manifest(batch=5, split=True))


@pytest.fixture(scope="module", params=["step", "request"])
def served(request: pytest.FixtureRequest, toy: Path) -> Iterator[tuple[Client, Pipeline]]:
    pipeline = Pipeline.from_bundle(toy, backend="onnxruntime", options=ONE_THREAD)
    with pipeline, serving_bundle(toy, batching=request.param) as client:
        yield client, pipeline


@given(mix=st.lists(asked, min_size=1, max_size=6))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_files_equal_those_of_generate_in_any_company(
    served: tuple[Client, Pipeline], mix: list[Fields], tmp_path_factory: pytest.TempPathFactory
) -> None:
    client, pipeline = served
    out = tmp_path_factory.mktemp("drawn")

    drawn = together(client, mix)

    for index, (fields, files) in enumerate(zip(mix, drawn, strict=True)):
        assert files == generated(pipeline, fields, out / str(index)), fields


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_network_draws_the_same_bytes_in_company(
    tmp_path: Path, backend: str, precision: str
) -> None:
    mix: list[Fields] = [
        {"label": k % 3, "seed": k, "n": 1 + k % 2, "steps": 3 + k, "cfg_scale": [1.0, 3.0][k % 2]}
        for k in range(6)
    ]
    how = {"backend": backend, "precision": precision, "options": ONE_THREAD}
    with (
        Pipeline.from_bundle(SMALL_PIT, **how) as pipeline,  # type: ignore[arg-type]
        serving_bundle(SMALL_PIT, backend=backend, precision=precision) as client,
    ):
        drawn = together(client, mix)
        for index, fields in enumerate(mix):
            assert drawn[index] == generated(pipeline, fields, tmp_path / str(index))
