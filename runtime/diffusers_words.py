"""The words of diffusers' pipelines: taken where they mean the same, else answered with ours."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from .. import OptionError
from .sampling.asked import a_number


class DiffusersWords(TypedDict, total=False):
    """The words that mean in diffusers what their own name means here.

    Attributes:
        class_labels: `labels`.
        num_inference_steps: `steps`.
        guidance_scale: `cfg_scale`; below 1 it is no guidance, as in diffusers.
    """

    class_labels: Sequence[int | str]
    num_inference_steps: int
    guidance_scale: float


SAME = {"class_labels": "labels", "num_inference_steps": "steps", "guidance_scale": "cfg_scale"}

OURS = (  # that a word may be misspelled of
    "seeds", "sampler", "eta", "spacing", "calls", "cfg_interval", "cfg_schedule", "cfg_channels",
    "shift", "noise", "latents", "init", "strength", "mask", "callback", "progress",
)  # fmt: skip

# What has another form here, and what to type.
OTHERWISE = {
    "generator": "Give `seeds=[0]`, one for each image, and with `noise='torch'` they draw what a "
    "CPU generator of that seed draws",
    "output_type": "Take `.images` (Pillow's) or `.latents` (NumPy's) of what comes back",
    "return_dict": "Take `.images` or `.latents` of what comes back",
    "num_images_per_prompt": "Name the label once for each image, such as `labels=[207] * 4`",
    "callback_on_step_end": "Give `callback=`, a function of one `Step`; it stops the run by "
    "returning True",
    "callback_on_step_end_tensor_inputs": "Give `callback=`: its `Step` has the latents",
    "callback_steps": "Give `callback=`, which is told of every step",
    "image": "Give `init=`, the picture to begin with",
    "mask_image": "Give `mask=`, white where the picture is drawn anew",
    "timesteps": "Give `spacing=`, or a sampler object of your own with its schedule",
    "sigmas": "Give `shift=`, or a sampler object of your own with its schedule",
    "height": "Sizes are static: export again with `--image-size HEIGHTxWIDTH`",
    "width": "Sizes are static: export again with `--image-size HEIGHTxWIDTH`",
    "prompt": "This model takes classes: give `labels=`, such as `pipeline.labels[:1]`",
    "negative_prompt": "Guidance starts from the class for none: there is nothing to give",
}


def in_our_words(
    words: Mapping[str, Any],
    labels: Sequence[int | str] | None,
    steps: int | None,
    cfg_scale: float | None,
) -> tuple[Sequence[int | str] | None, int | None, float | None]:
    """Labels, steps and guidance scale, by these names or by diffusers'; None where not said.

    Raises:
        OptionError: A word has another form here, is none, or says again what was said.
    """
    said: dict[str, Any] = {"labels": labels, "steps": steps, "cfg_scale": cfg_scale}
    for word, value in words.items():
        if word in OTHERWISE:
            raise OptionError(f"{word} is diffusers' word", OTHERWISE[word])
        if word not in SAME:
            raise OptionError(f"There is no argument called {word!r}", _suggest(word))
        if said[SAME[word]] is not None:
            raise OptionError(
                f"{word} and {SAME[word]} were both given, and they mean the same",
                f"Leave out {word}",
            )
        said[SAME[word]] = _same(word, value)
    return said["labels"], said["steps"], said["cfg_scale"]


def _same(word: str, value: Any) -> Any:
    """What a word says here: diffusers' pipelines guide with a scale above 1 alone."""
    if word != "guidance_scale":
        return value
    return max(1.0, a_number(value, "guidance_scale", "a number, such as 4.0"))


def _suggest(word: str) -> str:
    close = difflib.get_close_matches(word, [*SAME.values(), *SAME, *OURS], n=1)
    return (
        f"Give `{close[0]}=`" if close else "`help(pipeline.__call__)` lists those that there are"
    )
