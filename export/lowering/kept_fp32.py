"""What stays in fp32 inside a denoiser of lower precision, and why: one table of rules.

The trunk of the network between its linears stays in fp32: the latent's way into the tokens, the
residual stream with its norms, modulations and gates, and the way out. What is left for the lower
precision is nearly all of the work: every linear, both matmuls of the attention, the bridge.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ...graphs.blocks import LAYER_NORM, name_blocks, trunk
from ...graphs.scopes import is_norm, module_of
from ...graphs.weights import made_by, sole_user
from ...runtime.bundle.precision import Precision
from ..target import Target

GELU = ("Pow", "Mul", "Add", "Mul", "Tanh", "Add", "Mul", "Mul")  # of tanh-GELU, in order
MOVES = {"Concat", "Reshape", "Transpose"}
CONVOLUTIONS = {"AveragePool", "Conv", "MaxPool"}
SUMS = {"Add", "Mul", "Slice"}  # of shifted grids, times their taps


@dataclass(frozen=True)
class Rule:
    """Nodes that stay in fp32.

    Attributes:
        name: What they are.
        reason: Why; reports give both.
        find: The nodes of a graph.
        precisions: Where the rule holds.
    """

    name: str
    reason: str
    find: Callable[[ir.Graph], Iterable[ir.Node]]
    precisions: tuple[str, ...] = ("fp16", "bf16")


def nodes_in_fp32(graph: ir.Graph, precision: str, rules: Sequence[Rule]) -> dict[ir.Node, str]:
    """The nodes that stay in fp32, each with the reason of the first rule that names it."""
    reasons: dict[ir.Node, str] = {}
    for rule in rules:
        if precision in rule.precisions:
            for node in rule.find(graph):
                reasons.setdefault(node, f"{rule.name}: {rule.reason}")
    return reasons


def _conditioning(graph: ir.Graph) -> Iterator[ir.Node]:
    sees_latent = set(trunk(graph))
    return (node for node in graph if node not in sees_latent)


def _embedding(graph: ir.Graph) -> list[ir.Node]:
    """All before the first norm."""
    blocks = _blocks(graph)
    return blocks[0] if len(blocks) > 1 else []


def _final_layer(graph: ir.Graph) -> list[ir.Node]:
    """The last norm and all behind it."""
    blocks = _blocks(graph)
    return blocks[-1] if len(blocks) > 1 else []


def _blocks(graph: ir.Graph) -> list[list[ir.Node]]:
    """The nodes of each block; every one but the first begins with a norm."""
    blocks: dict[str, list[ir.Node]] = defaultdict(list)
    for node, name in name_blocks(graph).items():
        blocks[name].append(node)
    return list(blocks.values())


def _residuals(graph: ir.Graph) -> list[ir.Node]:
    """The Adds that feed the norms, those of what a gate lets through, and the gates."""
    nodes = trunk(graph)
    sees_latent = set(nodes)
    norms = [block[0] for block in _blocks(graph)[1:]]
    found = [node for norm in norms for node in _stream_behind(norm.inputs[0])]
    for add in nodes:
        if add.op_type != "Add" or _reads_conditioning(add, sees_latent):
            continue
        gates = [gate for value in add.inputs if (gate := made_by(value, "Mul")) is not None]
        if gates := [gate for gate in gates if _reads_conditioning(gate, sees_latent)]:
            found += [add, *gates]
    return list(dict.fromkeys(found))


def _stream_behind(value: ir.Value | None) -> list[ir.Node]:
    """The Add that makes a value, and the moves of tokens between; none where no Add does."""
    node = None if value is None else value.producer()
    if node is None or node.op_type == "Add":
        return [node] if node is not None else []
    if node.op_type not in MOVES:
        return []
    behind = [found for operand in node.inputs for found in _stream_behind(operand)]
    return [node, *behind] if behind else []


def _layer_norms(graph: ir.Graph) -> list[ir.Node]:
    return [node for node in trunk(graph) if node.op_type == LAYER_NORM]


def _other_norms(graph: ir.Graph) -> list[ir.Node]:
    """The nodes of a norm that its opset has no operator for, such as RMSNorm."""
    nodes = [node for node in trunk(graph) if is_norm(module_of(node))]
    means = {module_of(node) for node in nodes if node.op_type == "ReduceMean"}
    return [node for node in nodes if module_of(node) in means]


def _modulations(graph: ir.Graph) -> Iterator[ir.Node]:
    """``x * (1 + scale)`` and ``+ shift`` after a norm."""
    sees_latent = set(trunk(graph))
    for norm in (*_layer_norms(graph), *_other_norms(graph)):
        value = norm.outputs[0]
        for op_type in ("Mul", "Add"):
            user = _reader(value)
            if user is None or user.op_type != op_type:
                break
            if not _reads_conditioning(user, sees_latent):
                break
            yield user
            value = user.outputs[0]


def _reader(value: ir.Value) -> ir.Node | None:
    """What alone reads a value, in whatever shape."""
    user = sole_user(value)
    while user is not None and user.op_type == "Reshape":
        user = sole_user(user.outputs[0])
    return user


def _softmaxes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Each softmax, and what modulates it."""
    for node in graph:
        if node.op_type == "Softmax":
            yield node
            user = sole_user(node.outputs[0])
            if user is not None and user.op_type == "Mul":
                yield user


def _gelus(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        chain = [node]
        while len(chain) < len(GELU) and (user := sole_user(chain[-1].outputs[0])) is not None:
            chain.append(user)
        if tuple(link.op_type for link in chain) == GELU:
            yield from chain


def _shifted_taps(graph: ir.Graph) -> Iterator[ir.Node]:
    """A convolution as the pass shift_taps writes it: a padded grid, its shifts, and their sum."""
    for pad in (node for node in graph if node.op_type == "Pad"):
        yield pad
        for shifted in pad.outputs[0].consumers():
            node: ir.Node | None = shifted
            while node is not None and node.op_type in SUMS:
                yield node
                node = sole_user(node.outputs[0])


def _convolutions(graph: ir.Graph) -> Iterator[ir.Node]:
    return (node for node in graph if node.op_type in CONVOLUTIONS)


def _reads_conditioning(node: ir.Node, sees_latent: Collection[ir.Node]) -> bool:
    """Whether one operand was computed from timestep and label alone."""
    makers = [value.producer() for value in node.inputs if value is not None]
    return any(maker is not None and maker not in sees_latent for maker in makers)


SOFTMAX = Rule("softmax", "its exponentials are summed over all keys", _softmaxes)

RULES: tuple[Rule, ...] = (
    Rule("conditioning", "it sees no latent: it is the conditioner's work", _conditioning),
    Rule("embedding", "the latent would be rounded before anything is made of it", _embedding),
    Rule("final layer", "what it rounds goes straight into the prediction", _final_layer),
    Rule("residual stream", "it gathers what every block rounds", _residuals),
    Rule("LayerNorm", "its mean and variance are sums over all channels", _layer_norms),
    Rule("norm", "its mean is a sum over all channels", _other_norms),
    Rule("modulation", "it follows a norm in fp32, and its result is cast once", _modulations),
    SOFTMAX,
    Rule("GELU", "x³ leaves fp16 above 40, and 1 + tanh cancels below 0", _gelus),
    Rule("shifted taps", "their sum would be rounded after each of them", _shifted_taps),
    Rule("convolutions", "ONNX has them in bf16 from opset 22 only", _convolutions, ("bf16",)),
)


def rules_for(precision: Precision, target: Target) -> tuple[Rule, ...]:
    """What stays in fp32 in a precision on a target."""
    loose = target.in_fp16 if precision.name == "fp16" else ()
    return tuple(rule for rule in RULES if rule.name not in loose)
