"""How good a set of images is beside another one, by the features of a network."""
