import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pytest
from bundle_helpers import NULL_CLASS, SHAPE, FakeSession, one_line, some_latent, toy_manifest
from bundle_helpers import toy_prediction as toy

from pitstop import OptionError
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.sampling.condition import unstack
from pitstop.runtime.sampling.host_loop import HostLoop, run_rows
from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.request import Request
from pitstop.runtime.sampling.sampler import Latent, Memory, Prediction
from pitstop.runtime.sampling.schedule import Schedule
from pitstop.runtime.session import Session

CLASSES = [2, 0, 1]
SEEDS = [5, 6, 7]
LATENT = draw_noise(SEEDS, START, SHAPE)


@dataclass
class Listener:
    """A rule of one step that keeps what it was told."""

    timestep: int
    heard: list[Prediction] = field(default_factory=list)
    stochastic: bool = False

    @property
    def schedule(self) -> Schedule:
        return Schedule(np.array([self.timestep]), np.array([0.5]), np.array([1.0]))

    def step(
        self, index: int, latent: Latent, prediction: Prediction, noise: object, memory: Memory
    ) -> tuple[Latent, Memory]:
        self.heard.append(prediction)
        return latent + prediction.output, memory


def say(session: Session, manifest: Manifest, cfg_scale: float, timestep: int = 500) -> Prediction:
    """What a rule hears of `LATENT` and `CLASSES`."""
    label, listener = manifest.label, Listener(timestep)
    told = [label.told(one) for one in CLASSES]
    request = Request(SEEDS, told, listener, cfg_scale, manifest.untold)
    HostLoop(manifest, session).draw([request], lambda latents: None)
    return listener.heard[-1]


def test_guidance_goes_on_from_no_label_to_the_label() -> None:
    found = say(FakeSession(), toy_manifest(batch=6), cfg_scale=2.5)

    labelled, unlabelled = toy(LATENT, 500, CLASSES), toy(LATENT, 500, 3 * [NULL_CLASS])
    # u + 2.5 (l - u) = 2.5 l - 1.5 u
    np.testing.assert_allclose(found.output, 2.5 * labelled - 1.5 * unlabelled, atol=1e-6)
    assert found.output.dtype == np.float32
    assert found.variance is None


def test_guidance_takes_one_call_with_both_halves() -> None:
    session = FakeSession()

    say(session, toy_manifest(batch=6), cfg_scale=4.0, timestep=7)

    [feeds] = session.calls
    assert feeds["label"].tolist() == [2, 0, 1, 3, 3, 3]
    assert feeds["timestep"].tolist() == 6 * [7.0]
    np.testing.assert_array_equal(feeds["latent"][:3], feeds["latent"][3:])


def test_a_scale_of_one_asks_for_the_labels_alone() -> None:
    session = FakeSession()

    found = say(session, toy_manifest(batch=3), cfg_scale=1.0)

    assert [feeds["label"].tolist() for feeds in session.calls] == [CLASSES]
    np.testing.assert_array_equal(found.output, toy(LATENT, 500, CLASSES))


def test_a_scale_of_nought_is_the_model_without_labels() -> None:
    found = say(FakeSession(), toy_manifest(batch=6), cfg_scale=0.0, timestep=5)
    np.testing.assert_array_equal(found.output, toy(LATENT, 5, 3 * [NULL_CLASS]))


class FourChannels(FakeSession):
    """Says four channels that differ, where the latent has two: noise and learned variance."""

    def run(self, feeds):  # type: ignore[no-untyped-def]
        said = super().run(feeds)["prediction"]
        return {"prediction": np.concatenate([said, 2 * said, 3 * said, 4 * said], axis=1)}


def test_channels_that_guidance_leaves_are_those_of_the_label() -> None:
    manifest = dataclasses.replace(toy_manifest(batch=6), cfg_channels=3)

    found = say(FourChannels(), manifest, cfg_scale=2.5).output

    labelled, unlabelled = toy(LATENT, 500, CLASSES), toy(LATENT, 500, 3 * [NULL_CLASS])
    guided = 2.5 * labelled - 1.5 * unlabelled
    wanted = np.concatenate([guided, 2 * guided, 3 * guided, 4 * labelled], axis=1)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_array_equal(found[:, 3:], 4 * labelled)


@pytest.mark.parametrize("cfg_scale", [1.0, 2.5])
def test_a_learned_variance_is_the_second_half_of_the_channels(cfg_scale: float) -> None:
    manifest = dataclasses.replace(toy_manifest(batch=6), cfg_channels=2, learn_sigma=True)

    found = say(FourChannels(), manifest, cfg_scale)

    labelled, unlabelled = toy(LATENT, 500, CLASSES), toy(LATENT, 500, 3 * [NULL_CLASS])
    guided = cfg_scale * labelled + (1 - cfg_scale) * unlabelled
    np.testing.assert_allclose(
        found.output, np.concatenate([guided, 2 * guided], axis=1), atol=1e-5
    )
    np.testing.assert_array_equal(
        found.variance, np.concatenate([3 * labelled, 4 * labelled], axis=1)
    )


def test_guidance_without_a_null_class_is_refused_with_the_scale() -> None:
    with pytest.raises(OptionError) as told:
        say(FakeSession(), toy_manifest(null_class=False), cfg_scale=4.0)
    assert "A guidance scale of 4.0 was asked for" in one_line(told.value)
    assert told.value.remedy == "Use `--cfg-scale 1`"


def test_without_guidance_no_null_class_is_needed() -> None:
    found = say(FakeSession(), toy_manifest(null_class=False), cfg_scale=1.0)
    np.testing.assert_array_equal(found.output, toy(LATENT, 500, CLASSES))


def feeds_of(rows: int, labels: list[int], timestep: float = 500) -> dict[str, np.ndarray]:
    return {
        "latent": some_latent(rows),
        "timestep": np.full(rows, timestep, dtype=np.float32),
        "label": np.array(labels, dtype=np.int64),
    }


@pytest.mark.parametrize("rows", range(1, 10))
def test_any_number_of_rows_goes_in_calls_of_the_traced_batch(rows: int) -> None:
    session, labels = FakeSession(), [row % 3 for row in range(rows)]

    found = run_rows(session, 4, feeds_of(rows, labels))

    np.testing.assert_array_equal(found, toy(some_latent(rows), 500, labels))
    assert len(session.calls) == -(-rows // 4)
    assert {(feeds["latent"].shape, feeds["label"].shape) for feeds in session.calls} == {
        ((4, 1, 8, 8), (4,))
    }


def test_padding_brings_no_label_that_was_not_asked_for() -> None:
    session = FakeSession()  # a conditioner has made the rows of the run's labels alone
    run_rows(session, 8, feeds_of(3, [2, 1, 2]))
    [feeds] = session.calls
    assert set(feeds["label"].tolist()) == {1, 2}


def test_half_precision_comes_back_as_float32() -> None:
    class Half(FakeSession):
        def run(self, feeds):  # type: ignore[no-untyped-def]
            return {"prediction": super().run(feeds)["prediction"].astype(np.float16)}

    assert run_rows(Half(), 2, feeds_of(3, [0, 1, 2], 5)).dtype == np.float32


def test_conditions_come_apart_as_they_were_put_together() -> None:
    first, second = unstack({"label": np.array([4, 4]), "size": np.array([[1.0, 2.0], [1.0, 3.0]])})
    assert first == unstack({"size": np.array([[1.0, 2.0]]), "label": np.array([4])})[0]
    assert first != second
    assert len({first, second}) == 2
