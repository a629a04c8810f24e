"""A denoiser in fp16 or bf16: the precision is written in the graph."""
