"""Graphs to engines of TensorRT and TensorRT-RTX; it needs neither PyTorch nor ONNX."""
