import dataclasses
import json
from typing import Any

import pytest
from bundle_helpers import LABELS, one_line, toy_manifest, with_label

from pitstop import BundleError, OptionError
from pitstop.runtime.bundle.manifest import Manifest, PassReport
from pitstop.runtime.sampling.noise import NUMPY, PORTABLE
from pitstop.runtime.sampling.schedule.flow import LinearFlow

FOLD = PassReport("fold", {"Mul": 2}, {"Mul": 1}, 52, 48, ("y",), {"z": "has two users"}, 2.5e-8)


def content(**changes: object) -> str:
    """A whole manifest as JSON, with some of its fields changed."""
    return json.dumps({**json.loads(toy_manifest().to_json()), **changes})


def test_what_is_written_is_what_is_read() -> None:
    manifest = dataclasses.replace(
        toy_manifest(split=True), passes=(FOLD,), files={"goldens.npz": 64 * "a"}
    )

    read = Manifest.from_json(manifest.to_json())

    assert read == manifest


@pytest.mark.parametrize("data_at", [0, 1])
def test_a_flow_is_read_as_it_was_written(data_at: int) -> None:
    manifest = dataclasses.replace(
        toy_manifest(),
        prediction_type="velocity",
        schedule=LinearFlow(data_at),
        latent_scale=0.5,
        latent_shift=0.1,
    )
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(("space", "scale"), [("pixel", 1.0), ("vae", 0.18215)])
def test_a_bundle_of_version_1_is_read_with_the_scale_of_its_space(
    space: str, scale: float
) -> None:
    fields = json.loads(before_version_3(1, latent_space=space))
    for name in ("latent_scale", "latent_shift"):
        del fields[name]
    for name in ("format", "licence"):
        del fields["model"][name]

    read = Manifest.from_json(json.dumps(fields))

    assert (read.latent_scale, read.latent_shift) == (scale, 0.0)
    assert (read.model.format, read.model.licence) == ("", "")


def test_a_model_without_label_dropout_has_no_null_class() -> None:
    assert Manifest.from_json(toy_manifest(null_class=False).to_json()).label.null is None


@pytest.mark.parametrize("label", [1, "1", "shoe"])
def test_a_label_goes_by_number_and_by_name(label: str | int) -> None:
    assert toy_manifest().label.index(label) == 1


def test_a_name_that_is_a_number_is_a_name_and_a_number_is_never_a_name() -> None:
    manifest = with_label(toy_manifest(), names=("2", "1", "0"))
    assert manifest.label.index("2") == 0
    assert manifest.label.index(2) == 2


@pytest.mark.parametrize("label", ["boot", "", "3", 3, -1, "-1", "1.0", "²", 5000 * "9"])
def test_an_unknown_label_is_told_with_the_known_ones(label: str | int) -> None:
    with pytest.raises(OptionError) as told:
        toy_manifest().label.index(label)
    assert told.value.problem == f"There is no label {label!r}"
    assert one_line(told.value).endswith(f"from 0 to 2, or by name: {', '.join(LABELS)}.")


def test_without_names_an_unknown_label_is_told_with_the_numbers_alone() -> None:
    with pytest.raises(OptionError) as told:
        with_label(toy_manifest(), names=()).label.index("shoe")
    assert told.value.remedy == "Labels go by number from 0 to 2"


def test_precisions_are_told_from_the_most_exact_on() -> None:
    [spec] = toy_manifest().graphs.values()
    graphs = {f"denoiser.{precision}": spec for precision in ("int8", "bf16", "fp16", "fp32")}
    manifest = dataclasses.replace(toy_manifest(split=True), graphs=graphs)
    assert manifest.precisions == ["fp32", "fp16", "bf16", "int8"]


def test_an_unknown_precision_is_told_with_the_known_ones() -> None:
    with pytest.raises(OptionError) as told:
        toy_manifest().denoiser("fp8")
    assert one_line(told.value) == "This bundle has no fp8 denoiser. Choose one of: fp32."


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        (5, "Install the version of pitstop that wrote it"),
        (0, "Export it again with this version"),
        ("one", "Export it again with this version"),
        (None, "Export it again with this version"),
    ],
)
def test_another_schema_version_is_told_with_both_versions(version: object, remedy: str) -> None:
    with pytest.raises(BundleError) as told:
        Manifest.from_json(content(schema_version=version))
    assert f"has schema version {version}, this pitstop reads 4" in one_line(told.value)
    assert told.value.remedy.startswith(remedy)


@pytest.mark.parametrize("version", [True, 4.0])
def test_a_schema_version_is_a_whole_number(version: object) -> None:
    with pytest.raises(BundleError, match="has schema version"):
        Manifest.from_json(content(schema_version=version))


MODEL = json.loads(toy_manifest().to_json())["model"]
PASS = {
    "name": "fold_bridge",
    "nodes_before": {"Add": 2},
    "nodes_after": {"Add": 1},
    "weight_bytes_before": 8,
    "weight_bytes_after": 4,
    "rewritten": ["add"],
    "skipped": {"mul": "it has no bias"},
    "relative_l2": 0.0,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"model": None},
        {"model": {**MODEL, "config": {}}},
        {"model": {**MODEL, "config": "dit"}},
        {"model": {**MODEL, "parameters": "many"}},
        {"model": {**MODEL, "flops_per_call": None}},
        {"model": {**MODEL, "licence": ["MIT"]}},
        {"model": {**MODEL, "weights": ["ema"]}},
        {"model": {**MODEL, "variant": 3}},
        {"passes": [{**PASS, "nodes_before": [2]}]},
        {"passes": [{**PASS, "nodes_after": {"Add": "one"}}]},
        {"passes": [{**PASS, "weight_bytes_after": None}]},
        {"passes": [{**PASS, "skipped": {"mul": 3}}]},
        {"passes": [{**PASS, "relative_l2": "small"}]},
        {"passes": [{**PASS, "rewritten": [3]}]},
        {"passes": [{**PASS, "block_moves_after": {"Reshape": "one"}}]},
        {"passes": [{**PASS, "weight_bits": "seven"}]},
        {"files": ["graphs/denoiser.fp32.onnx"]},
        {"latent_space": "vae", "latent_scale": 10**400},
        {"cfg_channels": 99},
        {"batch": 10**30},
    ],
)
def test_a_part_of_another_type_is_told_in_one_line(changes: dict[str, object]) -> None:
    with pytest.raises(BundleError) as told:
        Manifest.from_json(content(**changes))
    assert one_line(told.value).startswith("manifest.json cannot be read: ")
    assert len(told.value.problem) < 300


def test_what_a_pass_did_is_read() -> None:
    [report] = Manifest.from_json(content(passes=[PASS])).passes
    assert report.rewritten == ("add",)
    assert report.weight_bits is None


@pytest.mark.parametrize("bits", [None, 7, 8])
def test_the_bits_of_quantized_weights_are_read(bits: int | None) -> None:
    manifest = Manifest.from_json(content(passes=[{**PASS, "name": "int8", "weight_bits": bits}]))
    assert manifest.weight_bits("int8") == bits
    assert manifest.weight_bits("fp16") is None


@pytest.mark.parametrize("classes", [2**20 + 1, 10**9])
def test_more_classes_than_any_model_has_are_told(classes: int) -> None:
    [label] = json.loads(content())["conditions"]
    changed = {**label, "classes": classes, "null": None, "names": []}
    with pytest.raises(BundleError, match=f"classes has {classes} where a whole number"):
        Manifest.from_json(content(conditions=[changed]))


def test_half_a_character_in_a_label_is_told() -> None:
    [label] = json.loads(content())["conditions"]
    names = ["shirt", "shoe", "\ud83d"]
    with pytest.raises(BundleError, match="surrogates not allowed"):
        Manifest.from_json(content(conditions=[{**label, "names": names}]))


def test_a_newer_schema_is_told_before_its_new_fields_are_read() -> None:
    with pytest.raises(BundleError, match="has schema version 5"):
        Manifest.from_json('{"schema_version": 5, "graph": {}}')


@pytest.mark.parametrize(
    "text", ["", "{", "\0\n\0", "[]", "3", "null", '"{}"', 100_000 * "[", "�", '{"\\n": 1}']
)
def test_garbage_is_told_in_one_line(text: str) -> None:
    with pytest.raises(BundleError) as told:
        Manifest.from_json(text)
    assert one_line(told.value).startswith("manifest.json cannot be read: ")
    assert told.value.remedy == "Copy the bundle again, or export it again"


@pytest.mark.parametrize("name", json.loads(toy_manifest().to_json()))
def test_a_missing_field_is_told_by_name(name: str) -> None:
    fields = json.loads(content())
    del fields[name]
    if name in {"versions", "target", "latent_scale", "latent_shift", "sources"}:  # with a default
        assert Manifest.from_json(json.dumps(fields)).graphs == toy_manifest().graphs
        return
    with pytest.raises(BundleError) as told:
        Manifest.from_json(json.dumps(fields))
    assert name in one_line(told.value)


def test_an_unknown_field_is_told_by_name() -> None:
    with pytest.raises(BundleError, match="window"):
        Manifest.from_json(content(window=8))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch", 0),
        ("batch", 2.0),
        ("batch", True),
        ("latent_shape", [1, 8]),
        ("latent_shape", [1, 8, -8]),
        ("latent_shape", 8),
        ("latent_space", "cmyk"),
        ("conditions", []),
        ("conditions", 3),
        ("conditions", [{"kind": "label"}]),
        ("conditions", 2 * json.loads(toy_manifest().to_json())["conditions"]),
        ("prediction_type", "velocity"),
        ("prediction_type", "image"),
        ("latent_scale", 0),
        ("latent_scale", "half"),
        ("latent_scale", float("inf")),
        ("latent_shift", None),
        ("schedule", {"data_at": 1}),
        ("schedule", {"data_at": 2}),
        ("schedule", {"data_at": 1, "train_steps": 1000}),
        ("learn_sigma", "no"),
        ("cfg_channels", 0),
        ("schedule", {"train_steps": "many"}),
        ("schedule", {"train_steps": 0}),
        ("schedule", {"beta_end": "high"}),
        ("schedule", {"beta_end": 1.5}),
        ("schedule", {"cosine": 1}),
        ("graphs", []),
        ("graphs", {}),
        ("graphs", {"denoiser.fp32": {}}),
        ("goldens", 3),
        ("files", ["goldens.npz"]),
        ("passes", [{}]),
        ("model", "PiT"),
    ],
)
def test_a_field_of_another_type_is_told(name: str, value: object) -> None:
    with pytest.raises(BundleError) as told:
        Manifest.from_json(content(**{name: value}))
    assert one_line(told.value).startswith("manifest.json cannot be read: ")


BAD_LABELS = [
    ("classes", "three"),
    ("null", "none"),
    ("null", -1),
    ("null", 4),
    ("names", "shirt"),
    ("names", ["shirt", "shoe"]),
]


@pytest.mark.parametrize(
    ("name", "value"),
    [*BAD_LABELS, ("kind", "prompt"), ("name", 3), ("name", "lable"), ("colour", "red")],
)
def test_a_condition_with_a_field_of_another_type_is_told(name: str, value: object) -> None:
    [label] = json.loads(content())["conditions"]
    with pytest.raises(BundleError) as told:
        Manifest.from_json(content(conditions=[{**label, name: value}]))
    assert one_line(told.value).startswith("manifest.json cannot be read: ")


def before_version_3(version: int = 2, **changes: object) -> str:
    """A manifest as it was written before its conditions had names."""
    fields = json.loads(content(schema_version=version))
    [label] = fields.pop("conditions")
    old = {"num_classes": label["classes"], "null_class": label["null"], "labels": label["names"]}
    return json.dumps({**fields, **old, **changes})


@pytest.mark.parametrize(("version", "rule"), [(2, NUMPY), (3, NUMPY), (4, PORTABLE)])
def test_a_manifest_keeps_the_noise_that_it_was_written_for(version: int, rule: str) -> None:
    text = before_version_3(version) if version < 3 else content(schema_version=version)
    fields = json.loads(text)
    if version < 4:
        del fields["noise"]
    once = Manifest.from_json(json.dumps(fields))
    again = Manifest.from_json(once.to_json())
    assert (once.noise, again.noise, again.schema_version) == (rule, rule, 4)


@pytest.mark.parametrize("rule", ["mersenne", 3, None])
def test_a_rule_of_noise_that_nobody_knows_is_told(rule: object) -> None:
    with pytest.raises(BundleError, match="noise"):
        Manifest.from_json(content(noise=rule))


@pytest.mark.parametrize(("name", "value"), BAD_LABELS)
def test_a_field_of_another_type_is_told_in_an_old_manifest_too(name: str, value: object) -> None:
    name = {"classes": "num_classes", "null": "null_class", "names": "labels"}[name]
    with pytest.raises(BundleError) as told:
        Manifest.from_json(before_version_3(**{name: value}))
    assert one_line(told.value).startswith("manifest.json cannot be read: ")


@pytest.mark.parametrize("name", ["num_classes", "null_class", "labels"])
def test_a_missing_field_of_an_old_manifest_is_told_by_name(name: str) -> None:
    fields = json.loads(before_version_3())
    del fields[name]
    with pytest.raises(BundleError, match=name):
        Manifest.from_json(json.dumps(fields))


def test_a_bundle_of_version_2_is_read_as_one_of_today() -> None:
    today = dataclasses.replace(toy_manifest(), noise=NUMPY)
    assert Manifest.from_json(before_version_3()) == today


@pytest.mark.parametrize("split", [False, True])
def test_what_the_denoiser_is_fed_has_a_rate(split: bool) -> None:
    manifest = toy_manifest(split=split)
    assert manifest.fed == (
        {"modulation": "step"} if split else {"timestep": "step", "label": "image"}
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("path", ["a"]), ("path", 3), ("path", ""), ("inputs", 3), ("outputs", [{}]), ("outputs", [])],
)
def test_a_graph_with_a_field_of_another_type_is_told(name: str, value: Any) -> None:
    graphs = json.loads(content())["graphs"]
    graphs["denoiser.fp32"][name] = value
    with pytest.raises(BundleError) as told:
        Manifest.from_json(content(graphs=graphs))
    one_line(told.value)


@pytest.mark.parametrize("dtype", ["float33", 3, None, "object"])
def test_a_tensor_of_an_unknown_dtype_is_told(dtype: object) -> None:
    graphs = json.loads(content())["graphs"]
    graphs["denoiser.fp32"]["inputs"][0]["dtype"] = dtype
    with pytest.raises(BundleError) as told:
        Manifest.from_json(content(graphs=graphs))
    assert f"{dtype}" in one_line(told.value)


def test_a_graphs_hash_knows_of_the_weights_beside_it() -> None:
    manifest = toy_manifest()
    path = manifest.denoiser("fp32").path
    alone = dataclasses.replace(manifest, files={path: "a"})
    beside = [
        dataclasses.replace(manifest, files={path: "a", f"{path}.data": weights})
        for weights in ("b", "c")
    ]

    hashes = {one.graph_sha256("denoiser.fp32") for one in (alone, *beside)}

    assert len(hashes) == 3
    assert alone.graph_sha256("denoiser.fp32") == "a"
