"""Steps that do not call the denoiser: what it would say is a sum of what it said before."""
