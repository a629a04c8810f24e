"""A bundle's graph is read with weights beside it, and with none from elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pitstop import BundleError
from pitstop.graphs.graph_file import read_graph, run_graph

WEIGHT = np.arange(4, dtype=np.float32)


def write(path: Path, location: str) -> Path:
    """A graph that adds a weight which stands in another file."""
    tensor = numpy_helper.from_array(WEIGHT, "weight")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    node = helper.make_node("Add", ["x", "weight"], ["y"])
    graph = helper.make_graph([node], "add", value[:1], value[1:], [tensor])
    opset = [helper.make_opsetid("", 18)]
    path.write_bytes(
        helper.make_model(graph, ir_version=10, opset_imports=opset).SerializeToString()
    )
    return path


def test_weights_beside_a_graph_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "add.onnx.data").write_bytes(WEIGHT.tobytes())
    model = read_graph(write(tmp_path / "add.onnx", "add.onnx.data"))

    found = run_graph(model, {"x": np.ones(4, np.float32)})["y"]

    np.testing.assert_array_equal(found, WEIGHT + 1)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "nowhere", "link"])
def test_weights_from_elsewhere_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "graphs").mkdir()
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    (tmp_path / "graphs" / "link").symlink_to(tmp_path / "secret")

    with pytest.raises(BundleError):
        read_graph(write(tmp_path / "graphs" / "add.onnx", location))


def test_what_is_no_graph_is_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        read_graph(tmp_path / "none.onnx")


def test_the_file_is_read_as_onnx_reads_it(tmp_path: Path) -> None:
    (tmp_path / "add.onnx.data").write_bytes(WEIGHT.tobytes())
    path = write(tmp_path / "add.onnx", "add.onnx.data")

    [weight] = read_graph(path).graph.initializers.values()

    [wanted] = onnx.load(path).graph.initializer
    assert weight.const_value is not None
    np.testing.assert_array_equal(weight.const_value.numpy(), numpy_helper.to_array(wanted))
