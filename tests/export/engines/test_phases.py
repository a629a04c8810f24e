"""A builder's phases become stages."""

from __future__ import annotations

from stage_helpers import Heard

from pitstop.export.engines.build import _phases


def test_each_phase_of_a_builder_is_a_stage_with_its_steps() -> None:
    heard = Heard()

    on_phase = _phases("denoiser.fp16", heard)
    going = [
        on_phase(name, done, steps)
        for name, done, steps in [("a", 0, 2), ("a", 1, 2), ("a", 2, 2), ("b", 0, 3), ("a", 0, 1)]
    ]

    engine = "building the engine of denoiser.fp16"
    assert all(going)
    assert heard.stages == [engine, f"{engine}: a", f"{engine}: b", f"{engine}: a"]
    assert heard.all_steps == [0, 2, 3, 1]
    assert heard.moved == [0, 2, 0, 0]
