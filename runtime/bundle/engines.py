"""The engines of a bundle, by what they depend on: ``engines/<key>/``.

An engine is written beside its place and renamed, under a lock that its process loses when it
dies. One that does not fit is never loaded: the message names what differs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import EngineError, __version__
from ..machine.system import platform_name
from .engine_key import EngineKey
from .folder import ENGINES, Bundle, sha256
from .in_place import PARTIAL, held
from .precision import QUANTIZED

PLAN = "engine.plan"
METADATA = "metadata.json"
TIMING_CACHE = "timing.cache"
LAYERS = "layers.txt"  # the builder's own list of the kernels, where it writes one
LOCK = ".lock"
RANGES = "calibration/ranges.json"


@dataclass(frozen=True)
class Engine:
    """An engine in a bundle.

    Attributes:
        folder: Where its plan, metadata and timing cache are.
        key: What it depends on.
        plan_sha256: Of the plan.
        plan_bytes: Its size.
        seconds: What building it took.
        built: When it was built, in seconds since 1970.
    """

    folder: Path
    key: EngineKey
    plan_sha256: str
    plan_bytes: int
    seconds: float
    built: float

    @property
    def plan(self) -> Path:
        return self.folder / PLAN

    @property
    def layers(self) -> Path:
        return self.folder / LAYERS

    @property
    def timing_cache(self) -> Path:
        return self.folder / TIMING_CACHE


def key_for(
    bundle: Bundle,
    graph: str,
    *,
    builder: str,
    builder_version: str,
    cuda_major: str,
    recipe: int,
    compute_capability: str,
    gpu: str,
    flags: tuple[str, ...] = (),
) -> EngineKey:
    """The key of the engine of one of a bundle's graphs."""
    manifest = bundle.manifest
    path, (_, _, precision) = manifest.graphs[graph].path, graph.partition(".")
    return EngineKey(
        graph=graph,
        graph_sha256=manifest.files[path],
        weights_sha256=manifest.files.get(f"{path}.data", ""),
        precision=precision or "fp32",
        calibration_sha256=manifest.files.get(RANGES, "") if precision in QUANTIZED else "",
        builder=builder,
        builder_version=builder_version,
        cuda_major=cuda_major,
        recipe=recipe,
        platform=platform_name(),
        compute_capability=compute_capability,
        gpu=gpu,
        flags=tuple(sorted(flags)),
    )


def list_engines(bundle: Path) -> list[Path]:
    """The folders of a bundle's engines, whole or not."""
    place = bundle / ENGINES
    if not place.is_dir():
        return []
    return sorted(path for path in place.iterdir() if path.is_dir() and path.name[0] != ".")


def read_engine(folder: Path) -> Engine:
    """Read what an engine says of itself.

    Raises:
        EngineError: Its metadata is missing or broken, or another engine's.
    """
    remedy = f"Build it again with `pitstop build`, or remove {folder}"
    try:
        content = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        engine = _engine(folder, content)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, EngineError) as error:
        raise EngineError(f"{folder / METADATA} cannot be read ({error})", remedy) from error
    key = engine.key
    if key.digest != folder.name:
        raise EngineError(
            f"{folder / METADATA} has changed: its key is {key.digest}, the folder's {folder.name}",
            remedy,
        )
    return engine


def _engine(folder: Path, content: Any) -> Engine:
    key = EngineKey.from_json(content["key"])
    built = content.get("built")  # engines from before it was written down have their folder's time
    return Engine(
        folder,
        key,
        plan_sha256=str(content["plan_sha256"]),
        plan_bytes=int(content["bytes"]),
        seconds=float(content["seconds"]),
        built=datetime.datetime.fromisoformat(built).timestamp() if built else _time_of(folder),
    )


def _time_of(folder: Path) -> float:
    return folder.stat().st_mtime


def check_plan(engine: Engine) -> None:
    """Refuse a plan that is not the one that was built.

    Raises:
        EngineError: It is missing, cut short or changed.
    """
    remedy = f"Build it again with `pitstop build`, or remove {engine.folder}"
    if not engine.plan.is_file():
        raise EngineError(f"{engine.plan} is missing", remedy)
    if (found := engine.plan.stat().st_size) != engine.plan_bytes:
        raise EngineError(
            f"{engine.plan} has {found} bytes, but {engine.plan_bytes} were built", remedy
        )
    if sha256(engine.plan) != engine.plan_sha256:
        raise EngineError(f"{engine.plan} has changed since it was built", remedy)


def find_engine(bundle: Bundle, here: EngineKey) -> Engine:
    """The engine of a graph that runs here.

    Args:
        bundle: Where it is.
        here: The graph, the builder as it is here, the GPU, and the flags; without any, those of
            the engine do not matter.

    Returns:
        The newest of those that fit.

    Raises:
        EngineError: There is none; the message names what differs in the one that is nearest.
    """
    remedy = "Build one: " + build_command(bundle.folder, here)
    kin, broken = _read_kin(bundle.folder, here)
    if not kin and not broken:
        raise EngineError(f"{bundle.folder} has no engine of {here.graph}", remedy)
    for engine in sorted(kin, key=lambda engine: engine.built, reverse=True):
        if engine.key.misfits(here):
            continue
        try:
            check_plan(engine)
        except EngineError as error:
            broken = error  # told if no other engine fits
        else:
            return engine
    if broken:
        raise broken
    nearest = min(kin, key=lambda engine: len(engine.key.misfits(here)))
    raise EngineError(
        f"The engine {nearest.key.digest} of {nearest.key.graph} does not fit: "
        f"{'; '.join(nearest.key.misfits(here))}",
        remedy,
    )


def _read_kin(bundle: Path, here: EngineKey) -> tuple[list[Engine], EngineError | None]:
    """The engines of the same part in whatever precision, and what is wrong with another."""
    kin, broken = [], None
    for folder in list_engines(bundle):
        try:
            engine = read_engine(folder)
        except EngineError as error:
            broken = error  # told if no other engine fits
            continue
        if engine.key.graph.partition(".")[0] == here.graph.partition(".")[0]:
            kin.append(engine)
    return kin, broken


def build_command(folder: Path, key: EngineKey) -> str:
    precision = f" --precision {key.precision}" if "." in key.graph else ""
    return f"`pitstop build {folder} --backend {key.builder}{precision}`"


@contextlib.contextmanager
def new_engine(bundle: Path, key: EngineKey) -> Iterator[Path]:
    """Give a folder to put a plan into, and rename it to its place when the block ends well.

    The block ends with `write_metadata`. After an error or Ctrl-C nothing is left.

    Raises:
        EngineError: Somebody else is building this engine, or the bundle cannot be written to.
    """
    place = bundle / ENGINES / key.digest
    partial = place.with_name(f".{key.digest}{PARTIAL}")
    try:
        with held(bundle, shared=True):  # what puts another bundle here waits
            place.parent.mkdir(exist_ok=True)
            with _locked(place.with_name(f".{key.digest}{LOCK}"), key):
                _remove(partial)  # of a build that was killed
                partial.mkdir()
                try:
                    yield partial
                    if (partial / METADATA).exists():
                        _remove(place)
                        partial.rename(place)
                finally:
                    _remove(partial)
    except OSError as error:
        raise EngineError(
            f"{place} cannot be written ({error.strerror or error})",
            "Free some space there, or copy the bundle to where you may write",
        ) from error


def write_metadata(folder: Path, key: EngineKey, seconds: float) -> None:
    """Say what the plan in a new engine's folder is."""
    plan = folder / PLAN
    facts: dict[str, Any] = {
        "key": dataclasses.asdict(key),
        "plan_sha256": sha256(plan),
        "bytes": plan.stat().st_size,
        "seconds": seconds,
        "built": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        "pitstop": __version__,
    }
    (folder / METADATA).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _locked(path: Path, key: EngineKey) -> Iterator[None]:
    """Hold a lock that ends with the process."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
        except BlockingIOError:
            held = False
        if not held:  # or its file was removed between opening and locking, as another one ended
            raise EngineError(
                f"Another process is building the engine {key.digest} of {key.graph}",
                "Wait until it ends; what it built will be found",
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
