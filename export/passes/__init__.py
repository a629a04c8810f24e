"""The passes, one a file, in the order in which export runs them."""

from ..graph_pass import GraphPass
from .attention_operators import MULTI_HEAD_ATTENTION, ONNX_ATTENTION
from .flat_heads import FLAT_HEADS
from .fold_bridge import FOLD_BRIDGE
from .fuse_attention import FUSE_ATTENTION
from .pad_heads import PAD_HEADS
from .simplify import SIMPLIFY
from .window_major import WINDOW_MAJOR

PASSES: tuple[GraphPass, ...] = (
    FOLD_BRIDGE,
    WINDOW_MAJOR,
    FUSE_ATTENTION,
    PAD_HEADS,
    MULTI_HEAD_ATTENTION,
    ONNX_ATTENTION,
    FLAT_HEADS,
    SIMPLIFY,
)
