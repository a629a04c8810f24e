import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_helpers import one_line, toy_manifest, write_bundle

from pitstop import BundleError
from pitstop.runtime.bundle.folder import (
    extended_bundle,
    new_bundle,
    open_bundle,
    sha256,
    write_manifest,
)

GRAPH = "denoiser.fp32.onnx"
TESTS = Path(__file__).parents[2]


def change_manifest(folder: Path, change: Callable[[dict[str, dict[str, str]]], object]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def told_by_opening(folder: Path) -> BundleError:
    with pytest.raises(BundleError) as told:
        open_bundle(folder)
    one_line(told.value)
    return told.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "toy")


def test_a_bundle_holds_its_files_and_nothing_stands_beside_it(folder: Path) -> None:
    bundle = open_bundle(str(folder))

    assert bundle.folder == folder
    assert bundle.path(GRAPH).is_file()
    assert dict(bundle.manifest.files) == {
        name: sha256(folder / name) for name in (GRAPH, "goldens.npz")
    }
    assert sorted(path.name for path in folder.iterdir()) == [GRAPH, "goldens.npz", "manifest.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


def test_a_bundle_may_be_copied_anywhere(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "other" / "place")
    assert open_bundle(tmp_path / "other" / "place").manifest == open_bundle(folder).manifest


@pytest.mark.parametrize("name", [GRAPH, "goldens.npz"])
def test_a_changed_byte_is_told_with_both_hashes(folder: Path, name: str) -> None:
    before = sha256(folder / name)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)

    told = told_by_opening(folder)

    assert told.problem.startswith(f"{folder / name} has changed: ")
    assert before[:12] in told.problem
    assert sha256(folder / name)[:12] in told.problem
    assert told.remedy == "Copy the bundle again, or export it again"


def test_a_truncated_file_is_told(folder: Path) -> None:
    os.truncate(folder / GRAPH, 10)
    assert "has changed" in told_by_opening(folder).problem


@pytest.mark.parametrize("name", [GRAPH, "goldens.npz"])
def test_a_missing_file_is_told_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert told_by_opening(folder).problem == f"{folder / name} is missing"


def test_a_folder_where_a_file_should_be_is_told(folder: Path) -> None:
    (folder / GRAPH).unlink()
    (folder / GRAPH).mkdir()
    assert told_by_opening(folder).problem == f"{folder / GRAPH} is missing"


@pytest.mark.parametrize("name", ["/etc/hostname", "../stranger", "a/../../stranger", ".."])
def test_a_path_that_leaves_the_folder_is_told(folder: Path, name: str) -> None:
    (folder.parent / "stranger").write_text("not ours")
    change_manifest(folder, lambda content: content["files"].update({name: 64 * "0"}))

    told = told_by_opening(folder)

    assert told.problem.endswith(f"names {name}, which is outside the bundle")
    assert told.remedy == "Do not use this bundle; get it from a source that you trust"


def test_a_link_that_leaves_the_folder_is_told(folder: Path) -> None:
    shutil.move(folder / GRAPH, folder.parent / "stranger")
    (folder / GRAPH).symlink_to(folder.parent / "stranger")
    assert told_by_opening(folder).problem.endswith("which is outside the bundle")


def test_links_that_go_round_in_circles_are_told(folder: Path) -> None:
    (folder / GRAPH).unlink()
    (folder / GRAPH).symlink_to(folder / GRAPH)
    told_by_opening(folder)


@pytest.mark.parametrize("name", ["null\0byte", "two\nlines", 300 * "n"])
def test_a_name_that_no_file_can_have_is_told_in_one_line(folder: Path, name: str) -> None:
    change_manifest(folder, lambda content: content["files"].update({name: 64 * "0"}))
    told_by_opening(folder)


def test_a_graph_without_a_hash_is_told(folder: Path) -> None:
    change_manifest(folder, lambda content: content["files"].pop(GRAPH))
    assert told_by_opening(folder).problem.endswith(f"gives no sha256 for {GRAPH}")


def test_garbage_instead_of_a_manifest_is_told(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(bytes(range(256)))
    assert told_by_opening(folder).problem.startswith("manifest.json cannot be read: ")


def test_a_newer_schema_is_told_before_the_files_are_looked_at(folder: Path) -> None:
    (folder / GRAPH).unlink()
    change_manifest(folder, lambda content: content.update(schema_version=5))
    assert "schema version 5" in told_by_opening(folder).problem


@pytest.mark.parametrize("place", [".", "nothing", 300 * "n"])
def test_a_folder_that_is_no_bundle_is_told(tmp_path: Path, place: str) -> None:
    assert str(tmp_path / place) in told_by_opening(tmp_path / place).problem


def test_a_new_bundle_takes_the_place_of_the_old_one(folder: Path) -> None:
    (folder / "leftover").write_text("of the old bundle")

    write_bundle(folder, toy_manifest(batch=8))

    assert open_bundle(folder).manifest.batch == 8
    assert not (folder / "leftover").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


def test_folders_are_made_on_the_way_and_an_empty_one_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    open_bundle(write_bundle(tmp_path / "empty"))
    open_bundle(write_bundle(tmp_path / "a" / "b"))


def test_the_current_folder_can_be_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    write_bundle(Path("."))

    open_bundle(tmp_path / "here")


def test_a_link_to_a_bundle_stays_a_link_to_the_new_one(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)

    write_bundle(link, toy_manifest(batch=8))

    assert link.is_symlink()
    assert open_bundle(folder).manifest.batch == 8
    assert sorted(path.name for path in folder.parent.iterdir()) == ["link", "toy"]


@pytest.mark.parametrize("is_folder", [True, False])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, is_folder: bool) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir() if is_folder else thesis.write_text("years of work")
    if is_folder:
        (thesis / "chapter1").write_text("years of work")

    with pytest.raises(BundleError) as told:
        write_bundle(thesis)

    assert one_line(told.value).startswith(f"{thesis} exists and is no bundle. ")
    assert (thesis / "chapter1" if is_folder else thesis).read_text() == "years of work"


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("older", [True, False])
def test_nothing_is_left_when_the_block_is_stopped(
    tmp_path: Path, stop: type[BaseException], older: bool
) -> None:
    if older:
        write_bundle(tmp_path / "toy", toy_manifest(batch=8))

    with pytest.raises(stop), new_bundle(tmp_path / "toy") as partial:  # noqa: PT012
        (partial / GRAPH).write_text("half")
        (partial / "manifest.json").write_text("half")
        raise stop

    assert [path.name for path in tmp_path.iterdir()] == (["toy"] if older else [])
    assert not older or open_bundle(tmp_path / "toy").manifest.batch == 8


def test_without_a_manifest_nothing_is_left(folder: Path) -> None:
    with new_bundle(folder) as partial:
        (partial / GRAPH).write_text("a gate was not met")
    with new_bundle(folder.parent / "other") as partial:
        (partial / GRAPH).write_text("a gate was not met")

    open_bundle(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


def test_a_full_disk_is_told_and_nothing_is_left(folder: Path) -> None:
    with pytest.raises(BundleError) as told, new_bundle(folder):
        raise OSError(28, "No space left on device")

    assert one_line(told.value) == (
        f"{folder} cannot be written (No space left on device). "
        "Free some space there, or choose another folder with `--out`."
    )
    open_bundle(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


@pytest.mark.parametrize("place", ["file/toy", "file/a/toy", 300 * "n"])
def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(BundleError) as told:
        write_bundle(tmp_path / place)

    assert "cannot be written" in one_line(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_somebody_put_into_a_bundle_stays_in_the_one_that_takes_its_place(
    folder: Path,
) -> None:
    (folder / "notes").mkdir()
    (folder / "notes" / "read me.txt").write_text("from the device")
    (folder / ".trash").mkdir()
    (folder / ".trash" / "old").touch()
    bundle = open_bundle(folder)
    listed = set(bundle.manifest.files)
    dropped = "denoiser.fp32.onnx"

    with extended_bundle(bundle, [dropped]) as partial:
        (partial / dropped).write_bytes((folder / dropped).read_bytes())
        write_manifest(partial, bundle.manifest)

    assert set(open_bundle(folder).manifest.files) == listed
    assert (folder / "notes" / "read me.txt").read_text() == "from the device"
    assert not (folder / ".trash").exists()


def test_an_extended_bundle_without_a_manifest_takes_no_place(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()

    with extended_bundle(open_bundle(folder), ["denoiser.fp32.onnx"]):
        pass

    assert (folder / "manifest.json").read_bytes() == before
    assert (folder / "denoiser.fp32.onnx").is_file()


def test_the_manifest_lists_files_in_folders_too(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "part.bin").write_bytes(b"1")

    write_manifest(tmp_path, toy_manifest())

    files = json.loads((tmp_path / "manifest.json").read_text())["files"]
    assert files == {"weights/part.bin": sha256(tmp_path / "weights" / "part.bin")}
