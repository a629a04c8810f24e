"""The bundle: a folder that can be copied to any device, written whole or not at all.

Reader and writer stand together, so that what is written is what is read. Every file's sha256 is
in the manifest; opening a bundle checks them all, or each when it is opened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ... import BundleError
from ..said import shortly
from ..stage import OnStage, unheard
from .in_place import beside, held, put_back, put_in_place
from .manifest import FILE_NAME, GraphSpec, Manifest

COPY_AGAIN = "Copy the bundle again, or export it again"
WEIGHTS = ".data"  # behind the name of a graph, the file of its big weights
ENGINES = "engines"  # what was built here; the manifest does not know it


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose files are all there, and unchanged when they are opened.

    Attributes:
        folder: Where it is.
        manifest: What it says of itself.
        unchecked: The files whose hash nobody has looked at yet.
    """

    folder: Path
    manifest: Manifest
    unchecked: set[str] = field(default_factory=set, compare=False, repr=False)

    def __repr__(self) -> str:
        return f"Bundle in {shortly(str(self.folder))}\n{self.manifest!r}"

    def path(self, relative: str) -> Path:
        """Where a file is, whose hash is looked at the first time, and so is that of its weights.

        Raises:
            BundleError: It has changed.
        """
        for name in (relative, f"{relative}{WEIGHTS}"):
            if name in self.unchecked:
                _check_file(self.folder / name, self.manifest.files[name])
                self.unchecked.discard(name)
        return self.folder / relative

    def graph(self, name: str) -> GraphFile:
        """One of its graphs, by the name that the manifest gives it."""
        spec = self.manifest.graphs[name]
        return GraphFile(self.folder / spec.path, spec, name, self)


@dataclass(frozen=True)
class GraphFile:
    """A graph on disk, as a backend is given it.

    Attributes:
        place: Of its ONNX file.
        spec: What flows in and out of it.
        name: In the manifest, such as ``denoiser.fp16``; empty outside a bundle.
        bundle: Where it is, with its engines; None outside one.
    """

    place: Path
    spec: GraphSpec
    name: str = ""
    bundle: Bundle | None = None

    @property
    def path(self) -> Path:
        """Of its ONNX file, to be opened: in a bundle its hash is looked at first."""
        return self.place if self.bundle is None else self.bundle.path(self.spec.path)


def open_bundle(folder: Path | str, *, every_file: bool = True) -> Bundle:
    """Open the bundle in ``folder`` after checking its manifest and every file.

    Args:
        folder: Where it is.
        every_file: Look at every file's hash at once; else at that of each file as it is opened.

    Raises:
        BundleError: No bundle, an unreadable manifest, a path that leaves the folder, or a file
            that is missing or changed.
    """
    folder = Path(folder)
    _check_name(folder)
    try:
        return _open_bundle(folder, every_file)
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, a loop of links
        why = getattr(error, "strerror", None) or error
        raise BundleError(f"{folder} cannot be read ({why})", COPY_AGAIN) from error


def _open_bundle(folder: Path, every_file: bool) -> Bundle:
    path = folder / FILE_NAME
    if not folder.exists():
        put_back(_place(folder))
    if not path.is_file():
        raise BundleError(
            f"{folder} is not a bundle: it has no {FILE_NAME}",
            "Name the folder that `pitstop export --out` made",
        )
    manifest = Manifest.from_json(path.read_text(encoding="utf-8", errors="replace"))
    for name in manifest.files:
        _check_inside(folder, name)
    named = [manifest.goldens, *(graph.path for graph in manifest.graphs.values())]
    for name in named:
        if name not in manifest.files:
            raise BundleError(
                f"{FILE_NAME} in {folder} gives no sha256 for {name}", "Export the bundle again"
            )
    for name in manifest.files:
        _check_there(folder / name)
    bundle = Bundle(folder, manifest, set(manifest.files))
    if every_file:
        for name in manifest.files:
            bundle.path(name)
    return bundle


@contextlib.contextmanager
def new_bundle(out: Path, on_stage: OnStage = unheard) -> Iterator[Path]:
    """Give a temporary folder beside ``out``, and rename it to ``out`` when the block ends well.

    The block fills the folder and ends with `write_manifest`. After an error, after Ctrl-C, or
    without a manifest, nothing is left, and an older bundle at ``out`` stays as it was.
    ``on_stage`` is told where a build there has to be waited for.

    Raises:
        BundleError: ``out`` holds something that is no bundle, or cannot be written.
    """
    with _completed(out, lambda partial: None, on_stage) as partial:
        yield partial


@contextlib.contextmanager
def _completed(out: Path, complete: Callable[[Path], None], on_stage: OnStage) -> Iterator[Path]:
    """As `new_bundle`; ``complete`` has the last word, when nobody works in ``out`` any more."""
    _check_name(out)
    place = _place(out)
    try:
        _check_replaceable(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        with beside(place) as partial:
            yield partial
            if (partial / FILE_NAME).exists():
                with _nobody_in(place, on_stage):
                    _check_replaceable(place)
                    complete(partial)
                    put_in_place(partial, place)
    except OSError as error:
        raise BundleError(
            f"{out} cannot be written ({error.strerror or error})",
            "Free some space there, or choose another folder with `--out`",
        ) from error


def _nobody_in(place: Path, on_stage: OnStage) -> AbstractContextManager[None]:
    """Hold a folder alone, where it is there; a build in it may take long to end."""
    if not place.exists():
        return contextlib.nullcontext()
    return held(
        place, on_wait=lambda: on_stage(f"waiting for the build of an engine in {place.name}")
    )


def _place(folder: Path) -> Path:
    """Where a bundle lies: "." has a name then, and no link hinders a rename."""
    return Path(os.path.realpath(folder))


@contextlib.contextmanager
def extended_bundle(
    bundle: Bundle, dropped: Collection[str], on_stage: OnStage = unheard
) -> Iterator[Path]:
    """As `new_bundle`, in the place of ``bundle`` and with its files in it but for ``dropped``.

    The files are linked where the file system can, so they must not be written to. What somebody
    put beside them comes along, but for hidden files; so do engines, whose keys say what they fit.
    """

    def bring_unlisted(folder: Path) -> None:
        _check_unchanged(bundle)
        for name in _unlisted(bundle):
            if not (folder / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(bundle.path(name), folder / name)

    with _completed(bundle.folder, bring_unlisted, on_stage) as folder:
        for name in bundle.manifest.files:
            if name not in dropped:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(bundle.path(name), folder / name)
        yield folder


def _check_unchanged(bundle: Bundle) -> None:
    """Refuse a folder that has another bundle in it than was opened."""
    path = bundle.folder / FILE_NAME
    if Manifest.from_json(path.read_text(encoding="utf-8")) != bundle.manifest:
        raise BundleError(
            f"{bundle.folder} has become another bundle meanwhile", "Run the command again on it"
        )


def _unlisted(bundle: Bundle) -> Iterator[str]:
    """The files in a bundle's folder that are not its own, none of them hidden."""
    for path in sorted(bundle.folder.rglob("*")):
        name = path.relative_to(bundle.folder)
        hidden = any(part.startswith(".") for part in name.parts)
        listed = name.as_posix() in {FILE_NAME, *bundle.manifest.files}
        if path.is_file() and not hidden and not listed:
            yield name.as_posix()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a new bundle, with the sha256 of every file in its folder."""
    files = {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = dataclasses.replace(manifest, files=files).to_json()
    (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """The hash of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_name(folder: Path) -> None:
    """Refuse a name that is no text, which ONNX Runtime cannot open."""
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise BundleError(f"The name of {folder} is not UTF-8", "Rename the folder") from error


def _link_or_copy(source: Path, place: Path) -> None:
    try:
        os.link(source, place)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, place)


def _check_inside(folder: Path, name: str) -> None:
    path = PurePosixPath(name)
    inside = (folder / name).resolve().is_relative_to(folder.resolve())
    if path.is_absolute() or ".." in path.parts or not inside:
        raise BundleError(
            f"{FILE_NAME} in {folder} names {name}, which is outside the bundle",
            "Do not use this bundle; get it from a source that you trust",
        )


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise BundleError(f"{path} is missing", COPY_AGAIN)


def _check_file(path: Path, digest: str) -> None:
    if (found := sha256(path)) != digest:
        raise BundleError(
            f"{path} has changed: its sha256 is {found[:12]}…, the manifest says {digest[:12]}…",
            COPY_AGAIN,
        )


def _check_replaceable(out: Path) -> None:
    empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not empty and not (out / FILE_NAME).is_file():
        raise BundleError(
            f"{out} exists and is no bundle", "Choose a new folder with `--out`, or remove it"
        )
