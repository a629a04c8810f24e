"""The scripts that made the shipped weights; ``python -m pitstop.models.training --help``."""
