"""ONNX graphs as export, calibration and evaluation handle them: read, written, understood."""
