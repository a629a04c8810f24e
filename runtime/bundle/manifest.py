"""The bundle's table of contents: what export writes and every device reads.

This file is the only place that knows the layout of ``manifest.json``. It needs the standard
library alone, apart from the schedule, so a device can read it before anything heavy is imported.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ... import BundleError, OptionError
from ..sampling.condition import Condition, merge
from ..sampling.noise import NUMPY, PORTABLE
from ..sampling.noise import RULES as NOISE_RULES
from ..sampling.sampler import NOISE_PREDICTIONS
from ..sampling.schedule.betas import Betas
from ..sampling.schedule.flow import LinearFlow
from ..sampling.schedule.scheduler import NONE, Scheduler
from ..session import Array
from ..shown import listed, shown, sides
from .checks import digests, graph_fields, model_fields, pass_fields
from .fields import a_count, a_number, a_table, a_text, one_of
from .label import LabelSpec, read_label
from .precision import PRECISIONS
from .schedule import read_schedule, read_scheduler
from .source import SourceSpec, read_source

SCHEMA_VERSION = 4
# 2 adds flows, the latent's scale and shift, and the weights' licence; 3 names the conditions; 4
# names the noise's rule, and what betas rise by.
READABLE = (1, 2, 3, 4)
FILE_NAME = "manifest.json"
CONDITIONER = "conditioner"
CONDITIONERS = (CONDITIONER,)  # asked before the loop, for what the denoiser is fed in it
LATENT, TIMESTEP, PREDICTION = "latent", "timestep", "prediction"  # of a denoiser's graph
STEP = "step"
DECODERS = ("decoder.fp32", "decoder.fp16")
ENCODER = "encoder.fp32"
LATENT_SPACES = ("pixel", "vae")
PREDICTION_TYPES = (*NOISE_PREDICTIONS, "velocity")
LATENT_SCALES = {"pixel": 1.0, "vae": 0.18215}  # of the model's latent; Stable Diffusion's VAE
IMAGE_CHANNELS = (1, 3)  # grey or RGB
DTYPES = ("float32", "float16", "int64", "int32", "int8", "uint8", "bool")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: The name inside the ONNX graph, e.g. ``"latent"``.
        shape: Every dimension, static, e.g. ``(2, 4, 32, 32)`` for [batch, channel, row, column].
        dtype: A NumPy dtype name, e.g. ``"float16"``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class GraphSpec:
    """One ONNX file of the bundle, and what flows in and out of it.

    Attributes:
        path: Relative to the bundle's folder.
        inputs: In the order of the graph.
        outputs: In the order of the graph.
        opset: Version of the default ONNX operator set.
        nodes: How many nodes of each operator type.
        weight_bytes: Bytes of all initializers.
    """

    path: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    nodes: Mapping[str, int]
    weight_bytes: int


@dataclass(frozen=True)
class PassReport:
    """What one graph pass did when the bundle was exported.

    Attributes:
        name: Of the pass.
        nodes_before: How many nodes of each operator type it was given.
        nodes_after: How many it left.
        weight_bytes_before: Bytes of all initializers that it was given.
        weight_bytes_after: Bytes that it left.
        rewritten: The sites that it changed, each by the name of its node's first output.
        skipped: The sites that it left alone, and why.
        relative_l2: How much the graph's output changed on the inputs of the check.
        block_moves_before: How many nodes that only move data, by operator type, a block of the
            network had on average; empty where no block is known.
        block_moves_after: As it left them.
        weight_bits: Of the weights that a calibration quantized; None for others, and for those
            that did not say it.
    """

    name: str
    nodes_before: Mapping[str, int]
    nodes_after: Mapping[str, int]
    weight_bytes_before: int
    weight_bytes_after: int
    rewritten: tuple[str, ...]
    skipped: Mapping[str, str]
    relative_l2: float
    block_moves_before: Mapping[str, float] = field(default_factory=dict)
    block_moves_after: Mapping[str, float] = field(default_factory=dict)
    weight_bits: int | None = None


@dataclass(frozen=True)
class ModelSpec:
    """The network that the graphs were traced from.

    Attributes:
        name: The preset's name or the checkpoint's file name.
        config: All fields of its config, and ``arch``. Only shown: the runtime needs none of it.
        parameters: How many weights, fixed positions included.
        flops_per_call: Floating-point operations of one denoiser call at the traced batch, a
            multiply-add counted as two.
        provenance: Where the weights come from.
        format: Of the checkpoint's file, a name in ``models.formats``; empty for our own.
        licence: What is known of the weights' licence, or empty.
        weights: Which of its file's sets of weights was asked for, or empty.
        variant: Which variant of its folder's weights was asked for, or empty.
    """

    name: str
    config: Mapping[str, Any]
    parameters: int
    flops_per_call: int
    provenance: str = ""
    format: str = ""
    licence: str = ""
    weights: str = ""
    variant: str = ""


@dataclass(frozen=True)
class Manifest:
    """Everything a runtime must know before it opens a graph.

    Attributes:
        model: What the graphs were traced from.
        batch: Rows of one denoiser call; guidance takes two for an image.
        latent_shape: Channel, row, column.
        latent_space: ``pixel`` where the latent is the image in [-1, 1], ``vae`` where a decoder
            is needed.
        conditions: What an image is told beside its noise, each with what stands for nothing said.
        prediction_type: What the denoiser predicts: ``epsilon`` (the noise), ``v_prediction``,
            ``sample`` (the image), or the ``velocity`` of a flow.
        learn_sigma: Whether the second half of the output's channels is a learned variance.
        cfg_channels: How many leading channels guidance acts on.
        schedule: The noise that the model was trained with, and what it calls time.
        graphs: By name: ``denoiser.fp32``, ...; ``conditioner`` where the graph was split;
            ``step``, guidance and the sampler's move, for devices that keep the latents;
            ``decoder.fp32``, ``decoder.fp16`` and ``encoder.fp32`` where it has a VAE's.
        goldens: Path of the reference outputs, relative to the folder.
        files: sha256 of every file of the bundle but this one, by relative path.
        versions: Of the packages that took part in the export.
        passes: What each graph pass did, in order.
        target: What the graphs were made for, e.g. ``portable``.
        latent_scale: The latent is ``(z - latent_shift) * latent_scale`` of what a decoder takes.
        latent_shift: See ``latent_scale``.
        scheduler: How the scheduler that came with the model runs.
        noise: The rule by which seeds become noise, one of ``sampling.noise.RULES``.
        sources: The repositories that the weights came from, where they were named so.
    """

    model: ModelSpec
    batch: int
    latent_shape: tuple[int, int, int]
    latent_space: str
    conditions: tuple[LabelSpec, ...]
    prediction_type: str
    learn_sigma: bool
    cfg_channels: int
    schedule: Betas | LinearFlow
    graphs: Mapping[str, GraphSpec]
    goldens: str
    files: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    passes: tuple[PassReport, ...] = ()
    target: str = "portable"
    latent_scale: float = 1.0
    latent_shift: float = 0.0
    scheduler: Scheduler = NONE
    noise: str = PORTABLE
    sources: tuple[SourceSpec, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def __repr__(self) -> str:
        model, label = self.model, self.label
        return shown(
            f"Manifest: {model.name}, {model.parameters:,} parameters",
            {
                "draws": f"{sides(self.latent_shape)} in the space {self.latent_space}",
                "batch": f"{self.batch} rows a call",
                "labels": f"{label.classes}: {listed(label.names)}",
                "predicts": f"{self.prediction_type}, {self.schedule.called}",
                "scheduler": self.scheduler.called,
                "graphs": listed(self.graphs),
                "target": self.target,
                "weights": model.provenance,
                "licence": model.licence,
                "files": f"{len(self.files)}, schema version {self.schema_version}",
            },
        )

    @property
    def precisions(self) -> list[str]:
        """The precisions that there is a denoiser for, the most exact first."""
        return [name for name in PRECISIONS if f"denoiser.{name}" in self.graphs]

    def denoiser(self, precision: str) -> GraphSpec:
        """The denoiser's graph in ``precision``.

        Raises:
            OptionError: The bundle has none; the message says which it has.
        """
        if precision not in self.precisions:
            raise OptionError(
                f"This bundle has no {precision} denoiser",
                f"Choose one of: {', '.join(self.precisions)}",
            )
        return self.graphs[f"denoiser.{precision}"]

    def decoder(self, precision: str) -> GraphSpec | None:
        """The decoder that goes with a denoiser in ``precision``, where the bundle has one.

        It is in fp32 beside an fp32 denoiser, and in fp16 beside any other.
        """
        name = self.decoder_name(precision)
        return None if name is None else self.graphs[name]

    def decoder_name(self, precision: str) -> str | None:
        """As `decoder`: its name among the graphs."""
        names = DECODERS if precision == "fp32" else DECODERS[::-1]
        return next((name for name in names if name in self.graphs), None)

    def graph_sha256(self, name: str) -> str:
        """Of a graph's file, and of the weights beside it where it has some."""
        path = self.graphs[name].path
        beside = self.files.get(f"{path}.data")
        return self.files[path] if beside is None else f"{self.files[path]} {beside}"

    @property
    def label(self) -> LabelSpec:
        """The condition that is a class."""
        [label] = self.conditions
        return label

    @property
    def guidable(self) -> bool:
        """Whether the model knows what nothing said is, which guidance starts from."""
        return self.untold is not None

    @property
    def untold(self) -> Condition | None:
        """What the unguided branch is told, or None where guidance is impossible."""
        return merge([condition.untold for condition in self.conditions])

    def examples(self, count: int) -> list[Condition]:
        """What ``count`` images are told where nobody says it: the conditions' values in turn."""
        return _merge_each([condition.examples(count) for condition in self.conditions])

    def spread(self, count: int) -> list[Condition]:
        """As `examples`, evenly over all values where there are more of them than images."""
        return _merge_each([condition.spread(count) for condition in self.conditions])

    def both_branches(self, rows: int) -> list[Condition]:
        """`examples` for the rows of a call, every second row untold where that can be."""
        told, untold = self.examples(rows), self.untold
        return [untold if untold and row % 2 else told[row] for row in range(rows)]

    def called(self, told: Mapping[str, Array]) -> list[str]:
        """What rows were told, by name, [row, ...], in users' words."""
        words = zip(*(condition.called_rows(told) for condition in self.conditions), strict=True)
        return [", ".join(row) for row in words]

    def why_not_told(self, told: Mapping[str, Array], rows: int) -> str | None:
        """Say why ``rows`` rows cannot have been told this, or None where they can."""
        if set(told) != (names := {condition.name for condition in self.conditions}):
            found, expected = (", ".join(sorted(each)) for each in (told, names))
            return f"has the conditions {found}, expected {expected}"
        reasons = (condition.why_not(told[condition.name], rows) for condition in self.conditions)
        return next((why for why in reasons if why), None)

    def weight_bits(self, precision: str) -> int | None:
        """Of a quantized denoiser's weights, where its calibration said it."""
        return next((done.weight_bits for done in self.passes if done.name == precision), None)

    def takes(self, condition: str) -> bool:
        """Whether what an image is told under a name is an input of a graph."""
        graphs = [self.graphs.get(CONDITIONER), self.denoiser(self.precisions[0])]
        return any(tensor.name == condition for graph in graphs if graph for tensor in graph.inputs)

    @property
    def fed(self) -> dict[str, str]:
        """What the denoiser is fed beside the latent, and how often: per ``step`` or ``image``."""
        inputs = self.denoiser(self.precisions[0]).inputs
        return {tensor.name: self._rate(tensor.name) for tensor in inputs if tensor.name != LATENT}

    def _rate(self, fed: str) -> str:
        for graph in (self.graphs[name] for name in CONDITIONERS if name in self.graphs):
            if any(tensor.name == fed for tensor in graph.outputs):
                return "step" if any(t.name == TIMESTEP for t in graph.inputs) else "image"
        return "step" if fed == TIMESTEP else "image"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what `to_json` wrote.

        Raises:
            BundleError: Not JSON, another schema version, or a field missing or of another type.
        """
        try:
            content: dict[str, Any] = json.loads(text)
            found = content["schema_version"]
            if type(found) is not int or found not in READABLE:
                raise BundleError(
                    f"This bundle has schema version {found}, this pitstop reads {SCHEMA_VERSION}",
                    "Install the version of pitstop that wrote it, or export it again with this one"
                    if isinstance(found, int) and found > SCHEMA_VERSION
                    else "Export it again with this version of pitstop",
                )
            return _manifest(_as_of_today(content))
        except json.JSONDecodeError as error:
            raise _unreadable(f"it is not JSON ({error})") from error
        except KeyError as error:
            raise _unreadable(f"the field {error} is missing") from error
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            raise _unreadable(str(error)) from error


def _merge_each(parts: list[list[Condition]]) -> list[Condition]:
    """What each image is told, of all conditions."""
    merged = [merge(each) for each in zip(*parts, strict=True)]
    return [condition for condition in merged if condition is not None]


def _unreadable(why: str) -> BundleError:
    return BundleError(
        f"{FILE_NAME} cannot be read: {why}", "Copy the bundle again, or export it again"
    )


def _manifest(content: dict[str, Any]) -> Manifest:
    channel, row, column = (a_count(number, "latent_shape") for number in content["latent_shape"])
    values = {
        **content,
        "model": ModelSpec(**model_fields(content["model"])),
        "batch": a_count(content["batch"], "batch"),
        "latent_shape": (channel, row, column),
        "conditions": tuple(map(read_label, content["conditions"])),
        "prediction_type": one_of(content, "prediction_type", PREDICTION_TYPES),
        "latent_space": one_of(content, "latent_space", LATENT_SPACES),
        "learn_sigma": one_of(content, "learn_sigma", (False, True)),
        "cfg_channels": a_count(content["cfg_channels"], "cfg_channels"),
        "schedule": read_schedule(content["schedule"]),
        "latent_scale": a_number(content, "latent_scale", LATENT_SCALES[content["latent_space"]]),
        "latent_shift": a_number(content, "latent_shift", 0.0),
        "scheduler": read_scheduler(a_table(content["scheduler"], "scheduler")),
        "noise": one_of(content, "noise", NOISE_RULES),
        "goldens": a_text(content["goldens"], "goldens"),
        "graphs": {name: _graph_spec(graph) for name, graph in content["graphs"].items()},
        "passes": tuple(PassReport(**pass_fields(report)) for report in content["passes"]),
        "files": digests(content["files"]),
        "versions": a_table(content.get("versions", {}), "versions"),
        "target": a_text(content.get("target", "portable"), "target"),
        "sources": tuple(map(read_source, content.get("sources", ()))),
    }
    manifest = Manifest(**values)
    if not manifest.precisions:
        raise ValueError("graphs has no denoiser")
    if len(manifest.conditions) != 1:
        raise ValueError(f"there are {len(manifest.conditions)} conditions, not one")
    if not manifest.takes(manifest.label.name):
        raise ValueError(f"no graph takes the condition {manifest.label.name}")
    if (manifest.prediction_type == "velocity") != isinstance(manifest.schedule, LinearFlow):
        raise ValueError(
            f"prediction_type {manifest.prediction_type} does not go with {manifest.schedule}"
        )
    if manifest.cfg_channels > manifest.latent_shape[0]:
        raise ValueError(
            f"cfg_channels is {manifest.cfg_channels} of {manifest.latent_shape[0]} channels"
        )
    if not manifest.latent_scale > 0:
        raise ValueError(f"latent_scale is {manifest.latent_scale}, not above 0")
    for precision in manifest.precisions:
        _check_denoiser(manifest.denoiser(precision), manifest)
    for name in DECODERS:
        if name in manifest.graphs:
            _check_decoder(manifest.graphs[name], manifest.latent_shape)
    if ENCODER in manifest.graphs:
        _check_encoder(manifest.graphs[ENCODER], manifest.latent_shape)
    return manifest


def _as_of_today(content: dict[str, Any]) -> dict[str, Any]:
    """An older manifest as one of today, that means the same."""
    written = content["schema_version"]
    content = {**content, "schema_version": SCHEMA_VERSION}
    if written < 4:
        content |= {"noise": NUMPY, "scheduler": {}}
    return _with_conditions(content) if written < 3 else content


def _with_conditions(content: dict[str, Any]) -> dict[str, Any]:
    """The one condition, which stood in three fields before version 3."""
    classes, null, names = (content.pop(name) for name in ("num_classes", "null_class", "labels"))
    label = {"classes": classes, "null": null, "names": names, "name": "label", "kind": "label"}
    return {**content, "conditions": [label]}


def _check_denoiser(spec: GraphSpec, manifest: Manifest) -> None:
    """Refuse a denoiser that takes other latents, or predicts other channels, than is said."""
    channels, *sides = manifest.latent_shape
    latent = (manifest.batch, channels, *sides)
    prediction = (manifest.batch, (1 + manifest.learn_sigma) * channels, *sides)
    for name, tensors, wanted in (
        (LATENT, spec.inputs, latent),
        (PREDICTION, spec.outputs, prediction),
    ):
        found = [tensor.shape for tensor in tensors if tensor.name == name]
        if found != [wanted]:
            raise ValueError(f"{spec.path} has {name} of shapes {found}, not {list(wanted)}")


def _check_decoder(spec: GraphSpec, latent_shape: tuple[int, int, int]) -> None:
    """Refuse a decoder whose tile does not fit into the latent, or that does not enlarge it."""
    _check_tile("decoder", spec.inputs, spec.outputs, latent_shape)


def _check_encoder(spec: GraphSpec, latent_shape: tuple[int, int, int]) -> None:
    """As `_check_decoder`, the other way round and for one image."""
    _check_tile("encoder", spec.outputs, spec.inputs, latent_shape)
    if spec.inputs[0].shape[0] != 1:
        raise ValueError(f"the encoder takes {spec.inputs[0].shape[0]} images, not one")


def _check_tile(
    role: str,
    latents: tuple[TensorSpec, ...],
    images: tuple[TensorSpec, ...],
    latent_shape: tuple[int, int, int],
) -> None:
    shapes = [tensor.shape for tensor in (*latents, *images)]
    if [len(shape) for shape in shapes] != [4, 4]:
        raise ValueError(f"the {role} has shapes {shapes}, not one image and one latent")
    (batch, channels, *tile), (count, colours, *sides) = shapes
    factor = sides[0] // tile[0]
    fits = channels == latent_shape[0] and tile[0] <= latent_shape[1] and tile[1] <= latent_shape[2]
    enlarges = count == batch and factor > 0 and sides == [factor * side for side in tile]
    if not fits or not enlarges or colours not in IMAGE_CHANNELS:
        raise ValueError(f"the {role}'s shapes {shapes} do not go with a latent {latent_shape}")


def _graph_spec(content: dict[str, Any]) -> GraphSpec:
    sides = {side: tuple(map(_tensor_spec, content[side])) for side in ("inputs", "outputs")}
    if not sides["outputs"]:
        raise ValueError("a graph has no outputs")
    return GraphSpec(**{**graph_fields(content), **sides})


def _tensor_spec(content: dict[str, Any]) -> TensorSpec:
    shape = tuple(a_count(side, "shape") for side in content["shape"])
    dtype = one_of(content, "dtype", DTYPES)
    return TensorSpec(name=a_text(content["name"], "name"), shape=shape, dtype=dtype)
