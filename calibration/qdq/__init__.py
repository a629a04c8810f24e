"""Where quantization goes in a graph, and how it is written there."""
