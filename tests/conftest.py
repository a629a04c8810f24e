"""Hypothesis without a deadline: a busy machine must not fail a test."""

from hypothesis import settings

settings.register_profile("pitstop", deadline=None)
settings.load_profile("pitstop")
