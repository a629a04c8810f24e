import dataclasses

import numpy as np
import pytest
from bundle_helpers import NULL_CLASS, FakeSession, one_line, some_latent, toy_manifest
from bundle_helpers import toy_prediction as toy

from pitstop import OptionError
from pitstop.runtime.sampling.guidance import GuidedDenoiser, run_rows

CLASSES = [2, 0, 1]


def test_guidance_goes_on_from_no_label_to_the_label() -> None:
    latent = some_latent(3)
    denoise = GuidedDenoiser(FakeSession(), toy_manifest(batch=6), CLASSES, cfg_scale=2.5)

    found = denoise(latent, 500)

    labelled, unlabelled = toy(latent, 500, CLASSES), toy(latent, 500, 3 * [NULL_CLASS])
    # u + 2.5 (l - u) = 2.5 l - 1.5 u
    np.testing.assert_allclose(found.output, 2.5 * labelled - 1.5 * unlabelled, atol=1e-6)
    assert found.output.dtype == np.float32
    assert found.variance is None


def test_guidance_takes_one_call_with_both_halves() -> None:
    session = FakeSession()

    GuidedDenoiser(session, toy_manifest(batch=6), CLASSES, cfg_scale=4.0)(some_latent(3), 7)

    [feeds] = session.calls
    assert feeds["label"].tolist() == [2, 0, 1, 3, 3, 3]
    assert feeds["timestep"].tolist() == 6 * [7.0]
    np.testing.assert_array_equal(feeds["latent"][:3], feeds["latent"][3:])


def test_a_scale_of_one_asks_for_the_labels_alone() -> None:
    session, latent = FakeSession(), some_latent(3)

    found = GuidedDenoiser(session, toy_manifest(batch=3), CLASSES, cfg_scale=1.0)(latent, 500)

    assert [feeds["label"].tolist() for feeds in session.calls] == [CLASSES]
    np.testing.assert_array_equal(found.output, toy(latent, 500, CLASSES))


def test_a_scale_of_nought_is_the_model_without_labels() -> None:
    latent = some_latent(3)
    found = GuidedDenoiser(FakeSession(), toy_manifest(batch=6), CLASSES, cfg_scale=0.0)(latent, 5)
    np.testing.assert_array_equal(found.output, toy(latent, 5, 3 * [NULL_CLASS]))


class FourChannels(FakeSession):
    """Says four channels that differ, where the latent has two: noise and learned variance."""

    def run(self, feeds):  # type: ignore[no-untyped-def]
        said = super().run(feeds)["prediction"]
        return {"prediction": np.concatenate([said, 2 * said, 3 * said, 4 * said], axis=1)}


def test_channels_that_guidance_leaves_are_those_of_the_label() -> None:
    manifest = dataclasses.replace(toy_manifest(batch=6), cfg_channels=3)
    latent = some_latent(3)

    found = GuidedDenoiser(FourChannels(), manifest, CLASSES, cfg_scale=2.5)(latent, 500).output

    labelled, unlabelled = toy(latent, 500, CLASSES), toy(latent, 500, 3 * [NULL_CLASS])
    guided = 2.5 * labelled - 1.5 * unlabelled
    wanted = np.concatenate([guided, 2 * guided, 3 * guided, 4 * labelled], axis=1)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_array_equal(found[:, 3:], 4 * labelled)


@pytest.mark.parametrize("cfg_scale", [1.0, 2.5])
def test_a_learned_variance_is_the_second_half_of_the_channels(cfg_scale: float) -> None:
    manifest = dataclasses.replace(toy_manifest(batch=6), cfg_channels=2, learn_sigma=True)
    latent = some_latent(3)

    found = GuidedDenoiser(FourChannels(), manifest, CLASSES, cfg_scale)(latent, 500)

    labelled, unlabelled = toy(latent, 500, CLASSES), toy(latent, 500, 3 * [NULL_CLASS])
    guided = cfg_scale * labelled + (1 - cfg_scale) * unlabelled
    np.testing.assert_allclose(
        found.output, np.concatenate([guided, 2 * guided], axis=1), atol=1e-5
    )
    np.testing.assert_array_equal(
        found.variance, np.concatenate([3 * labelled, 4 * labelled], axis=1)
    )


def test_guidance_without_a_null_class_is_refused_with_the_scale() -> None:
    with pytest.raises(OptionError) as told:
        GuidedDenoiser(FakeSession(), toy_manifest(null_class=False), [0], cfg_scale=4.0)
    assert "A guidance scale of 4.0 was asked for" in one_line(told.value)
    assert told.value.remedy == "Use `--cfg-scale 1`"


def test_without_guidance_no_null_class_is_needed() -> None:
    latent = some_latent(2)
    denoise = GuidedDenoiser(FakeSession(), toy_manifest(null_class=False), [0, 1], cfg_scale=1.0)
    np.testing.assert_array_equal(denoise(latent, 500).output, toy(latent, 500, [0, 1]))


@pytest.mark.parametrize("rows", range(1, 10))
def test_any_number_of_rows_goes_in_calls_of_the_traced_batch(rows: int) -> None:
    session, latent = FakeSession(), some_latent(rows)
    labels = np.arange(rows, dtype=np.int64) % 3

    found = run_rows(session, 4, latent, 500, labels)

    np.testing.assert_array_equal(found, toy(latent, 500, labels.tolist()))
    assert len(session.calls) == -(-rows // 4)
    assert {(feeds["latent"].shape, feeds["label"].shape) for feeds in session.calls} == {
        ((4, 1, 8, 8), (4,))
    }


def test_padding_brings_no_label_that_was_not_asked_for() -> None:
    session = FakeSession()  # a conditioner has made the modulations of the run's labels alone
    run_rows(session, 8, some_latent(3), 500, np.array([2, 1, 2]))
    [feeds] = session.calls
    assert set(feeds["label"].tolist()) == {1, 2}


def test_half_precision_comes_back_as_float32() -> None:
    class Half(FakeSession):
        def run(self, feeds):  # type: ignore[no-untyped-def]
            return {"prediction": super().run(feeds)["prediction"].astype(np.float16)}

    assert run_rows(Half(), 2, some_latent(3), 5, np.array([0, 1, 2])).dtype == np.float32
