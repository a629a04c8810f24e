"""A bundle that is open for a server: what its requests are checked by, drawn by, and shown by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import OptionError
from ..runtime.backend import SessionOptions
from ..runtime.backends import AUTO
from ..runtime.bundle.folder import open_bundle
from ..runtime.bundle.manifest import CONDITIONER
from ..runtime.image import png_bytes
from ..runtime.jobs.parameters import parameters, shared_settings
from ..runtime.jobs.plan import PlannedImage
from ..runtime.opened import OpenedBundle, beside, open_denoiser
from ..runtime.pipeline import Pipeline
from ..runtime.samples import Samples
from ..runtime.sampling.conditioner import Conditioner
from ..runtime.sampling.host_loop import HostLoop
from ..runtime.sampling.request import Request
from ..runtime.sampling.sampler import Latent
from ..runtime.sampling.settings import Settings
from ..runtime.session import Array, Closing, Session

CHUNK_BYTES = 32 << 20  # of one image's conditions held at a time; as many images are in flight
MOST_FORECASTS = 64  # rules that are kept


class StaysOpen:
    """A session that is not opened for each request anew."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.device = session.device

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self._session.run(feeds)

    def close(self) -> None:
        """Stay open for the next request; `end` closes it."""

    def end(self) -> None:
        self._session.close()


class Engine(Closing):
    """An opened bundle, whose rows several requests share.

    Attributes:
        opened: The bundle.
        manifest: Of it.
        loop: Moves rows through the host, so that they may join and leave at any step.
    """

    def __init__(self, opened: OpenedBundle, options: SessionOptions) -> None:
        """Take an opened bundle, and how its graphs were opened."""
        self.opened, self.manifest = opened, opened.bundle.manifest
        self._conditioning = self._open_conditioner(options)
        self._conditioner = self._conditioner_of(self._conditioning)
        self.loop = HostLoop(self.manifest, opened.denoiser, self._conditioner)
        self._pipeline = self._new_pipeline()
        self._forecast = 0

    @classmethod
    def open(
        cls,
        bundle: Path | str,
        *,
        backend: str = AUTO,
        precision: str | None = None,
        options: SessionOptions | None = None,
    ) -> Engine:
        """Open a bundle whose images can be shown.

        Raises:
            PitstopError: The bundle is broken or has no decoder, or what was asked for is not to
                be had here.
        """
        options = options or SessionOptions()
        found = open_bundle(bundle, every_file=False)
        engine = cls(open_denoiser(found, precision, backend, options), options)
        if not engine._pipeline.gives_pictures:
            engine.close()
            raise OptionError(
                "This bundle has no decoder, so its images cannot be sent",
                "Export it again with `--vae DIR`",
            )
        return engine

    def close(self) -> None:
        if self._conditioning is not None:
            self._conditioning.end()
        self.opened.close()

    @property
    def size(self) -> tuple[int, int]:
        """Of an image: width and height in pixels."""
        name = self.manifest.decoder_name(self.opened.precision)
        _, rows, columns = self.manifest.latent_shape
        if self.manifest.latent_space == "pixel" or name is None:
            return columns, rows
        spec = self.manifest.graphs[name]
        factor = spec.outputs[0].shape[2] // spec.inputs[0].shape[2]
        return columns * factor, rows * factor

    def requests(self, label: int, seeds: Sequence[int], settings: Settings) -> list[Request]:
        """One for each image, so that each takes the first room that there is.

        Raises:
            OptionError: A seed or a setting that is none.
        """
        self._forget(settings)
        told = self.manifest.label.told(label)
        return [
            request
            for seed in seeds
            for request in self._pipeline.requests([told], [seed], settings)
        ]

    def settle(self, settings: Settings) -> Settings:
        """As `Pipeline.settle`."""
        return self._pipeline.settle(settings)

    def png(self, latent: Latent, label: int, seed: int, settings: Settings) -> bytes:
        """The file of an image, as ``pitstop generate`` writes it."""
        image = PlannedImage(label, self.manifest.label.called(label), seed)
        told = parameters(self._pipeline, image, shared_settings(self._pipeline, settings))
        return png_bytes(self._picture(latent), told)

    def preview(self, latent: Latent) -> bytes:
        """A PNG of a latent on its way."""
        return png_bytes(self._picture(np.ascontiguousarray(latent)))

    def _picture(self, latent: Latent) -> Any:
        [picture] = Samples(latent, self.manifest.latent_space, self.opened.decode).images
        return picture

    def _new_pipeline(self) -> Pipeline:
        opened = self.opened
        return Pipeline(
            self.manifest,
            opened.denoiser,
            opened.precision,
            conditioner=self._conditioner,
            loop=self.loop,
            decode=opened.decode,
            chosen=opened.chosen,
            bundle=opened.bundle,
        )

    def _forget(self, settings: Settings) -> None:
        """Begin anew now and then: a pipeline keeps each forecasting rule it was asked for."""
        self._forecast += settings.calls is not None
        if self._forecast > MOST_FORECASTS:
            self._pipeline, self._forecast = self._new_pipeline(), 0

    def _open_conditioner(self, options: SessionOptions) -> StaysOpen | None:
        if CONDITIONER not in self.manifest.graphs:
            return None
        graph = self.opened.bundle.graph(CONDITIONER)
        return StaysOpen(beside(self.opened.chosen.backend).open_graph(graph, options))

    def _conditioner_of(self, kept: StaysOpen | None) -> Conditioner | None:
        if kept is None:
            return None
        spec = self.manifest.graphs[CONDITIONER]
        return Conditioner(lambda: kept, spec, chunk_bytes=CHUNK_BYTES)
