"""A denoiser in fp16 and bf16: what is lowered, what stays in fp32, and how close it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from bundle_helpers import one_line
from checkpoint_helpers import tiny_checkpoint
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from low_helpers import calls_for, change_weight, denoiser, types
from model_helpers import pit_configs, tiny_dit, tiny_pit
from pass_helpers import as_text, check_shapes, graph, noise, weight

from pitstop import OptionError
from pitstop.export import pipeline
from pitstop.export.graph_pass import apply, interface
from pitstop.export.lowering import overflow
from pitstop.export.lowering.kept_fp32 import RULES, Rule, nodes_in_fp32
from pitstop.export.lowering.lower import LOW, Lowered, choose_precisions, lower
from pitstop.export.optimize import SPLIT, STEP_NAMES
from pitstop.export.passes import SHIFT_TAPS
from pitstop.export.pipeline import ExportReport, export_bundle
from pitstop.graphs.graph_file import run_calls
from pitstop.graphs.retype import FLOAT
from pitstop.graphs.weights import constant
from pitstop.models.denoiser import DenoiserConfig
from pitstop.models.pit import BridgeConfig, PccaConfig, PswaConfig
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.bundle.precision import FLOATING
from pitstop.runtime.distance import relative_l2
from pitstop.runtime.pipeline import Pipeline

BOTH = pytest.mark.parametrize("name", LOW)
DTYPES = {name: ir.DataType[precision.dtype] for name, precision in LOW.items()}
TINY = tiny_pit(depth=2)
CONFIGS = {
    "all of the bridge": tiny_pit(
        depth=1,
        pswa=PswaConfig(
            4, bridge=BridgeConfig("pool_dw", 9, norm="bn", act="gelu_tanh", highpass=True)
        ),
    ),
    "normalised, biased, projected": tiny_pit(
        depth=2, pswa=PswaConfig(4, "projected", rel_pos_bias=True, qk_norm=True)
    ),
    "added": tiny_pit(
        depth=2, pcca=PccaConfig("const", (1.0,)), pswa=PswaConfig(4, merge="add_proj")
    ),
    "dit": tiny_dit(depth=2),
}


def lowered(
    name: str, config: DenoiserConfig = TINY, left_out: tuple[str, ...] = (), batch: int = 2
) -> Lowered:
    model = denoiser(config, left_out, batch)
    return lower(model, LOW[name], calls_for(config, left_out, batch))


def check(
    name: str, config: DenoiserConfig, left_out: tuple[str, ...] = (), batch: int = 2
) -> None:
    """Lower a denoiser and see that the graph is valid, runs, and stays in its tolerance."""
    made = lowered(name, config, left_out, batch)
    calls = calls_for(config, left_out, batch)

    check_shapes(made.model)
    assert interface(made.model) == interface(denoiser(config, left_out, batch))
    assert 0 < made.report.relative_l2 <= LOW[name].tolerance
    if LOW[name].runs_here:
        [expected], [found] = (
            run_calls(model, calls) for model in (denoiser(config, left_out, batch), made.model)
        )
        error = relative_l2(expected["prediction"], found["prediction"])
        assert error <= LOW[name].tolerance


@BOTH
def test_every_value_keeps_its_name_and_shape(name: str) -> None:
    before, after = denoiser(TINY), lowered(name).model

    shapes = {v.name: v.shape for node in after.graph for v in node.outputs}
    for node in before.graph:
        for value in node.outputs:
            assert shapes[value.name] == value.shape
    added = shapes.keys() - {value.name for node in before.graph for value in node.outputs}
    casts = {node.outputs[0].name for node in after.graph if node.op_type == "Cast"}
    assert added == casts


@BOTH
def test_inputs_and_outputs_stay_float32(name: str) -> None:
    made = lowered(name).model

    assert interface(made) == interface(denoiser(TINY))
    assert {value.dtype for value in [*made.graph.inputs, *made.graph.outputs]} == {FLOAT}


@BOTH
def test_the_linears_and_the_attention_are_lowered_and_nothing_that_a_rule_names(name: str) -> None:
    made = lowered(name)
    found = types(made.model)

    islands = nodes_in_fp32(denoiser(TINY).graph, name, RULES)
    assert {node.outputs[0].name: why for node, why in islands.items()} == made.report.skipped
    assert {found[output] for output in made.report.skipped} == {FLOAT}
    assert {found[output] for output in made.report.rewritten} == {DTYPES[name]}
    matmuls = [node for node in made.model.graph if node.op_type == "MatMul"]
    kinds = Counter(node.outputs[0].dtype for node in matmuls)
    assert kinds == {DTYPES[name]: 6 * TINY.depth, FLOAT: 1}
    bridges = [
        found[node.outputs[0].name or ""] for node in made.model.graph if node.op_type == "Conv"
    ]
    assert bridges == [FLOAT, *[FLOAT if name == "bf16" else DTYPES[name]] * TINY.depth]


def test_every_rule_finds_its_nodes() -> None:
    depth = TINY.depth
    model = denoiser(TINY)
    found = {rule.name: Counter(n.op_type for n in rule.find(model.graph)) for rule in RULES}

    assert found.pop("final layer")["MatMul"] == 1
    assert found.pop("embedding")["Conv"] == 1
    assert found == {
        "conditioning": {"Split": 1},
        "residual stream": {"Add": 2 * depth + 1, "Mul": 2 * depth},
        "LayerNorm": {"LayerNormalization": 2 * depth + 1},
        "norm": {},
        "modulation": {"Mul": 2 * depth + 1, "Add": 2 * depth + 1},
        "softmax": {"Softmax": depth},
        "GELU": {"Pow": depth, "Mul": 4 * depth, "Add": 2 * depth, "Tanh": depth},
        "shifted taps": {},
        "convolutions": {"Conv": depth + 1},
    }


def test_a_norm_inside_an_attention_has_no_modulation_and_no_residual() -> None:
    model = denoiser(CONFIGS["normalised, biased, projected"])
    found = {rule.name: Counter(n.op_type for n in rule.find(model.graph)) for rule in RULES}

    assert found["LayerNorm"] == {"LayerNormalization": 2 * 4 + 1}
    assert found["modulation"] == {"Mul": 5, "Add": 5}
    assert found["residual stream"] == {"Add": 5, "Mul": 4}


@BOTH
def test_a_value_is_cast_once_and_no_cast_undoes_another(name: str) -> None:
    casts = [node for node in lowered(name).model.graph if node.op_type == "Cast"]

    sources = [node.inputs[0] for node in casts]
    assert len(set(sources)) == len(casts)
    assert not {value.producer() for value in sources if value is not None} & set(casts)


@BOTH
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_other_models_are_lowered_too(config: DenoiserConfig, name: str) -> None:
    check(name, config)


@BOTH
@pytest.mark.parametrize("left_out", [(SPLIT,), STEP_NAMES], ids=["split", "all"])
def test_graphs_of_fewer_passes_are_lowered_too(left_out: tuple[str, ...], name: str) -> None:
    check(name, CONFIGS["all of the bridge"], left_out)


def test_an_unsplit_graph_keeps_its_embedders_and_modulations_in_fp32() -> None:
    made = lowered("fp16", left_out=(SPLIT,))

    kept = {node.op_type for node in made.model.graph if node.outputs[0].dtype == FLOAT}
    assert {"Gather", "Sin", "Gemm"} <= kept
    gemms = [node for node in made.model.graph if node.op_type == "Gemm"]
    assert {node.outputs[0].dtype for node in gemms} == {FLOAT}


@BOTH
def test_the_given_graph_is_left_as_it_was(name: str) -> None:
    model = denoiser(TINY)
    before = as_text(model)

    lower(model, LOW[name], calls_for(TINY))

    assert as_text(model) == before


def test_the_report_counts_what_became_smaller() -> None:
    report = lowered("fp16").report

    assert report.name == "fp16"
    assert report.weight_bytes_after < 0.7 * report.weight_bytes_before
    assert report.nodes_after["Cast"] > 0
    assert "Cast" not in report.nodes_before


def overflowing() -> ir.Model:
    """A denoiser in whose second block the MLP reaches 4e4."""
    name = "blocks.1.mlp.fc1.bias"
    bias = constant(denoiser(TINY).graph.initializers[name])
    assert bias is not None
    return change_weight(denoiser(TINY), name, bias + 4e4)


def test_a_block_that_would_overflow_stays_in_fp32_and_is_named() -> None:
    made = lower(overflowing(), LOW["fp16"], calls_for(TINY))

    named = {why for why in made.report.skipped.values() if "overflow" in why}
    assert len(named) == 1
    assert "blocks.1.mlp would overflow: " in min(named)
    assert "beyond half of fp16's range" in min(named)
    matmuls = [node for node in made.model.graph if node.op_type == "MatMul"]
    low = [node.outputs[0].dtype == DTYPES["fp16"] for node in matmuls]
    assert low == [True] * 10 + [False] * 3
    assert made.report.relative_l2 <= LOW["fp16"].tolerance


def test_without_that_the_graph_would_give_numbers_that_are_not_finite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overflow, "MARGIN", 1e-9)
    model = overflowing()
    for name, value in model.graph.initializers.items():
        if name.endswith("mlp.fc2.bias"):
            array = constant(value)
            assert array is not None
            model = change_weight(model, name, array + 3e4)

    made = lower(model, LOW["fp16"], calls_for(TINY))

    assert made.report.relative_l2 == np.inf


def test_bf16_has_the_range_of_fp32() -> None:
    made = lower(overflowing(), LOW["bf16"], calls_for(TINY))

    assert not [why for why in made.report.skipped.values() if "overflow" in why]
    assert made.report.relative_l2 <= LOW["bf16"].tolerance


def test_a_weight_that_fp16_cannot_hold_keeps_its_node_in_fp32_and_is_named() -> None:
    weights = np.diag([7e4, 1.0, 1.0])
    model = graph(
        "(float[2, 3] latent) => (float[2, 3] y)",
        "a = MatMul(latent, w) b = Mul(a, s) y = MatMul(b, v)",
        w=weights,
        s=[0.1] * 3,
        v=noise(3, 3),
    )

    made = lower(model, LOW["fp16"], [{"latent": 1e-2 * noise(2, 3)}])

    assert made.report.skipped == {"a": "w reaches 7.0e+04, beyond fp16's 65504"}
    assert made.report.rewritten == ("b", "y")
    np.testing.assert_array_equal(weight(made.model, "MatMul"), weights)
    assert made.report.relative_l2 < LOW["fp16"].tolerance


def test_no_weight_becomes_infinite() -> None:
    made = lower(overflowing(), LOW["fp16"], calls_for(TINY)).model

    for value in made.graph.initializers.values():
        array = constant(value)
        assert array is not None
        assert np.isfinite(array.astype(np.float64)).all()


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ([], ["fp32"]),
        (["fp32"], ["fp32"]),
        (["bf16", "fp16", "bf16"], ["fp32", "fp16", "bf16"]),
    ],
)
def test_fp32_is_always_written_and_each_precision_once(
    asked: list[str], chosen: list[str]
) -> None:
    assert choose_precisions(asked) == chosen


@pytest.mark.parametrize("name", ["fp8", "FP16", ""])
def test_an_unknown_precision_is_refused_before_anything_is_written(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError) as caught:
        export_bundle("fashion", tmp_path / "bundle", precisions=["fp16", name])

    line = one_line(caught.value)
    assert f"There is no precision called {name!r}" in line
    assert ", ".join(FLOATING) in line
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"))


@pytest.fixture(scope="module")
def exported(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    out = tmp_path_factory.mktemp("exported") / "bundle"
    return export_bundle(checkpoint, out, precisions=("bf16", "fp16"))


def test_a_bundle_holds_every_precision_and_its_report(exported: ExportReport) -> None:
    manifest = open_bundle(exported.bundle).manifest

    assert exported.passed
    denoisers = {f"denoiser.{name}" for name in FLOATING}
    assert set(manifest.graphs) == {"conditioner", "step", *denoisers}
    assert sorted(manifest.precisions) == sorted(FLOATING)
    assert [done.name for done in manifest.passes][-3:] == [SPLIT, "fp16", "bf16"]
    assert manifest.passes == exported.passes
    whole = manifest.denoiser("fp32")
    for name in LOW:
        spec = manifest.denoiser(name)
        assert (spec.inputs, spec.outputs) == (whole.inputs, whole.outputs)
        assert spec.weight_bytes < whole.weight_bytes


def test_every_precision_is_held_against_pytorch(exported: ExportReport) -> None:
    assert list(exported.parities) == list(FLOATING)
    assert exported.parity is exported.parities["fp32"]
    assert [len(parity.relative_l2) for parity in exported.parities.values()] == [5, 10, 5]
    for name, precision in LOW.items():
        parity = exported.parities[name]
        assert parity.tolerance == precision.tolerance
        assert exported.parity.worst < parity.worst <= parity.tolerance


def test_the_fp16_denoiser_draws_nearly_what_the_fp32_one_does(exported: ExportReport) -> None:
    expected, found = (
        Pipeline.from_bundle(exported.bundle, backend="onnxruntime", precision=name)(
            labels=[0, 2], steps=3
        ).latents
        for name in ("fp32", "fp16")
    )

    assert 0 < relative_l2(expected, found) < LOW["fp16"].tolerance


@pytest.mark.parametrize("place", ["twin", "file"])
def test_a_precision_beyond_its_tolerance_is_not_written(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def lower_and_spoil(*arguments: Any, **options: Any) -> Lowered:
        made = lower(*arguments, **options)
        if place == "twin":
            spoilt = tuple(1.1 * answer for answer in made.predictions)  # type: ignore[operator]
            return Lowered(made.model, made.report, spoilt)
        name = "blocks.0.mlp.fc1.bias"
        value = made.model.graph.initializers[name]
        array = constant(value)
        assert array is not None
        value.const_value = ir.tensor(array + np.float16(1), name=name)
        return made

    monkeypatch.setattr(pipeline, "lower", lower_and_spoil)

    report = export_bundle(checkpoint, tmp_path / "bundle", precisions=["fp16"])

    assert report.parity.passed
    assert not report.passed
    assert report.parities["fp16"].worst > LOW["fp16"].tolerance
    assert list(tmp_path.iterdir()) == []


def residuals_in_fp32(bundle: Path) -> int:
    [report] = [step for step in open_bundle(bundle).manifest.passes if step.name == "fp16"]
    return sum(why.startswith("residual stream") for why in report.skipped.values())


def test_the_residual_stream_is_in_fp16_on_a_target_for_engines_alone(
    checkpoint: str, tmp_path: Path
) -> None:
    for target in ("portable", "tensorrt-rtx"):
        export_bundle(checkpoint, tmp_path / target, target=target, precisions=["fp16"])

    assert residuals_in_fp32(tmp_path / "portable") > 0
    assert residuals_in_fp32(tmp_path / "tensorrt-rtx") == 0


@pytest.mark.parametrize("name", list(LOW))
def test_the_sum_of_shifted_taps_stays_in_fp32(name: str) -> None:
    wide = graph(
        "(float[1, 2, 4, 4] latent) => (float[1, 2, 4, 4] y)",
        "x = Neg(latent) y = Conv<group=2, pads=[1, 1, 1, 1], kernel_shape=[3, 3]>(x, w)",
        w=noise(2, 1, 3, 3),
    )
    shifted, _ = apply(SHIFT_TAPS, wide, {"latent": noise(1, 2, 4, 4)})

    kept = nodes_in_fp32(shifted.graph, name, RULES)

    assert Counter(node.op_type for node, why in kept.items() if "taps" in why) == {
        "Pad": 1, "Slice": 9, "Mul": 9, "Add": 8
    }  # fmt: skip


def test_a_stream_that_fails_the_gate_in_fp16_stays_in_fp32(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lower_and_spoil(*arguments: Any, rules: Sequence[Rule]) -> Lowered:
        made = lower(*arguments, rules=rules)
        if any(rule.name == "residual stream" for rule in rules):
            return made
        spoilt = tuple(1.1 * answer for answer in made.predictions)  # type: ignore[operator]
        return Lowered(made.model, made.report, spoilt)

    monkeypatch.setattr(pipeline, "lower", lower_and_spoil)

    report = export_bundle(
        checkpoint, tmp_path / "bundle", target="tensorrt-rtx", precisions=["fp16"]
    )

    assert report.passed
    assert residuals_in_fp32(tmp_path / "bundle") > 0


@given(config=pit_configs(), batch=st.integers(1, 4), name=st.sampled_from(list(LOW)))
@settings(
    max_examples=3,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    deadline=None,
)
def test_any_pit_is_lowered(config: DenoiserConfig, batch: int, name: str) -> None:
    check(name, config, batch=batch)


@pytest.mark.slow
@given(
    config=pit_configs(),
    name=st.sampled_from(list(LOW)),
    left_out=st.sets(st.sampled_from(STEP_NAMES)),
)
@settings(
    max_examples=20,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    deadline=None,
)
def test_any_pit_with_any_passes_is_lowered(
    config: DenoiserConfig, name: str, left_out: set[str]
) -> None:
    check(name, config, tuple(step for step in STEP_NAMES if step in left_out))
