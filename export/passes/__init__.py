"""The passes, one a file, in the order in which export runs them."""

from ..graph_pass import GraphPass
from .attention_operators import MULTI_HEAD_ATTENTION, ONNX_ATTENTION
from .batch_projections import BATCH_PROJECTIONS
from .fold_bridge import FOLD_BRIDGE
from .fuse_attention import FUSE_ATTENTION
from .merge_moves import MERGE_MOVES
from .pad_heads import PAD_HEADS
from .place_major import PLACE_MAJOR
from .row_gates import ROW_GATES
from .shift_taps import SHIFT_TAPS
from .simplify import SIMPLIFY
from .window_major import WINDOW_MAJOR

PASSES: tuple[GraphPass, ...] = (
    FOLD_BRIDGE,
    WINDOW_MAJOR,
    FUSE_ATTENTION,
    PAD_HEADS,
    MULTI_HEAD_ATTENTION,
    ONNX_ATTENTION,
    PLACE_MAJOR,
    BATCH_PROJECTIONS,
    SHIFT_TAPS,
    ROW_GATES,
    MERGE_MOVES,
    SIMPLIFY,
)
