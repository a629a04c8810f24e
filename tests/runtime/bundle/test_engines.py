from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from bundle_helpers import one_line, toy_manifest, write_bundle

from pitstop import EngineError
from pitstop.runtime.bundle.engine_key import EngineKey
from pitstop.runtime.bundle.engines import (
    METADATA,
    PLAN,
    Engine,
    find_engine,
    key_for,
    list_engines,
    new_engine,
    read_engine,
    write_metadata,
)
from pitstop.runtime.bundle.folder import (
    ENGINES,
    Bundle,
    extended_bundle,
    open_bundle,
    write_manifest,
)
from pitstop.runtime.bundle.manifest import Manifest


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(write_bundle(tmp_path / "bundle"))


def key_of(bundle: Bundle, **changes: object) -> EngineKey:
    facts = {
        "builder": "tensorrt",
        "builder_version": "10.3.0",
        "cuda_major": "12",
        "recipe": 1,
        "compute_capability": "8.7",
        "gpu": "Orin",
        **changes,
    }
    return key_for(bundle, "denoiser.fp32", **facts)  # type: ignore[arg-type]


def build(bundle: Bundle, key: EngineKey | None = None, plan: bytes = b"a plan") -> Engine:
    """An engine as a builder leaves it; what is in the plan is TensorRT's business."""
    key = key or key_of(bundle)
    with new_engine(bundle.folder, key) as partial:
        (partial / PLAN).write_bytes(plan)
        write_metadata(partial, key, seconds=1.5)
    return read_engine(bundle.folder / ENGINES / key.digest)


def test_an_engine_is_found_by_what_it_depends_on(bundle: Bundle) -> None:
    built = build(bundle)

    found = find_engine(bundle, key_of(bundle))

    assert found == built
    assert found.plan.read_bytes() == b"a plan"
    assert found.plan_bytes == 6
    assert list_engines(bundle.folder) == [built.folder]


def test_without_an_engine_the_message_has_the_command(bundle: Bundle) -> None:
    with pytest.raises(EngineError) as caught:
        find_engine(bundle, key_of(bundle))

    assert "has no engine of denoiser.fp32" in str(caught.value)
    command = f"`pitstop build {bundle.folder} --backend tensorrt --precision fp32`"
    assert command in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"builder_version": "10.4.0"}, "its builder's version is 10.3.0, here it is 10.4.0"),
        ({"compute_capability": "8.9"}, "its compute capability is 8.7, here it is 8.9"),
        ({"gpu": "NVIDIA A2"}, "its GPU is Orin, here it is NVIDIA A2"),
        ({"cuda_major": "13"}, "its CUDA is 12, here it is 13"),
        ({"recipe": 2}, "its build recipe is 1, here it is 2"),
        ({"builder": "tensorrt-rtx"}, "its builder is tensorrt, here it is tensorrt-rtx"),
        (
            {"flags": ("optimization-level=5",)},
            "its flags is none, here it is optimization-level=5",
        ),
    ],
)
def test_an_engine_of_another_machine_is_refused_with_the_field(
    bundle: Bundle, changed: dict[str, object], said: str
) -> None:
    build(bundle)

    with pytest.raises(EngineError) as caught:
        find_engine(bundle, key_of(bundle, **changed))

    assert said in str(caught.value)
    assert "pitstop build" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("graph_sha256", "f" * 64, "its graph is"),
        ("weights_sha256", "f" * 64, "its weights is none, here it is ffffffffffff…"),
        ("precision", "fp16", "its precision is fp32, here it is fp16"),
        ("platform", "Linux riscv64", "here it is Linux riscv64"),
        ("calibration_sha256", "f" * 64, "its calibration is none, here it is ffffffffffff…"),
    ],
)
def test_an_engine_of_another_platform_or_graph_is_refused_with_the_field(
    bundle: Bundle, field: str, value: str, said: str
) -> None:
    build(bundle)

    with pytest.raises(EngineError) as caught:
        find_engine(bundle, dataclasses.replace(key_of(bundle), **{field: value}))

    assert said in str(caught.value)


def test_a_graph_that_was_exported_again_does_not_get_the_old_engine(tmp_path: Path) -> None:
    bundle = open_bundle(write_bundle(tmp_path / "bundle"))
    build(bundle)
    other = open_bundle(write_bundle(tmp_path / "other", toy_manifest(batch=4)))
    (bundle.folder / ENGINES).rename(other.folder / ENGINES)

    with pytest.raises(EngineError, match="does not fit: its graph is"):
        find_engine(other, key_of(other))


FLAGS = ("", "optimization-level=5", "optimization-level=1")


def build_in_turn(bundle: Bundle) -> Engine:
    """Engines of one graph, the last of them the newest; their folders tell the opposite."""
    for age, flag in enumerate(FLAGS):
        newest = build(bundle, key_of(bundle, flags=(flag,) if flag else ()))
        then = time.time() - 1000 * age
        os.utime(newest.folder, (then, then))
    return newest


def test_of_several_that_fit_the_newest_is_found(bundle: Bundle) -> None:
    newest = build_in_turn(bundle)

    assert find_engine(bundle, key_of(bundle)) == newest


def test_the_newest_is_the_same_after_a_copy_or_a_calibration(bundle: Bundle) -> None:
    newest = build_in_turn(bundle)

    with extended_bundle(bundle, dropped=()) as folder:
        write_manifest(folder, dataclasses.replace(bundle.manifest, files={}))
    shutil.copytree(bundle.folder, copied := bundle.folder.with_name("copied"))

    for place in (bundle.folder, copied):
        extended = open_bundle(place)
        assert find_engine(extended, key_of(extended)).key == newest.key


def test_an_engine_without_the_time_of_its_build_has_its_folders(bundle: Bundle) -> None:
    engine = build(bundle)
    content = json.loads((engine.folder / METADATA).read_text())
    del content["built"]
    (engine.folder / METADATA).write_text(json.dumps(content))
    os.utime(engine.folder, (1000, 1000))

    assert read_engine(engine.folder).built == 1000


def test_an_engine_of_an_older_pitstop_is_told_with_the_command_that_builds_another(
    bundle: Bundle,
) -> None:
    engine = build(bundle)
    content = json.loads((engine.folder / METADATA).read_text())
    for name in ("cuda_major", "recipe", "gpu"):
        del content["key"][name]
    (engine.folder / METADATA).write_text(json.dumps(content))
    digest = hashlib.sha256(json.dumps(content["key"], sort_keys=True).encode()).hexdigest()[:16]
    engine.folder.rename(engine.folder.with_name(digest))

    with pytest.raises(EngineError) as caught:
        find_engine(bundle, key_of(bundle))

    assert f"The engine {digest} of denoiser.fp32 does not fit" in one_line(caught.value)
    assert "its build recipe is an older pitstop's, here it is 1" in caught.value.problem
    command = f"`pitstop build {bundle.folder} --backend tensorrt --precision fp32`"
    assert command in caught.value.remedy


def test_the_nearest_engine_is_the_one_that_is_told_of(bundle: Bundle) -> None:
    build(bundle, key_of(bundle, compute_capability="7.5", builder_version="10.2.0"))
    build(bundle, key_of(bundle, compute_capability="8.6"))

    with pytest.raises(EngineError) as caught:
        find_engine(bundle, key_of(bundle))

    assert "its compute capability is 8.6, here it is 8.7" in str(caught.value)
    assert "10.2.0" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"), [(b"a pla", "has 5 bytes, but 6 were built"), (b"b plan", "has changed")]
)
def test_a_plan_that_was_cut_or_changed_is_refused(
    bundle: Bundle, content: bytes, said: str
) -> None:
    engine = build(bundle)
    engine.plan.write_bytes(content)

    with pytest.raises(EngineError, match=said):
        find_engine(bundle, key_of(bundle))


def test_a_plan_that_is_gone_is_refused(bundle: Bundle) -> None:
    build(bundle).plan.unlink()

    with pytest.raises(EngineError, match="is missing"):
        find_engine(bundle, key_of(bundle))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"key": {}}', "\x00", "[" * 5000])
def test_broken_metadata_is_refused_and_says_what_to_remove(bundle: Bundle, text: str) -> None:
    engine = build(bundle)
    (engine.folder / METADATA).write_text(text)

    with pytest.raises(EngineError) as caught:
        find_engine(bundle, key_of(bundle))

    assert f"remove {engine.folder}" in str(caught.value)


def test_metadata_that_was_edited_to_fit_is_refused(bundle: Bundle) -> None:
    engine = build(bundle)
    content = json.loads((engine.folder / METADATA).read_text())
    content["key"]["compute_capability"] = "8.9"
    (engine.folder / METADATA).write_text(json.dumps(content))

    with pytest.raises(EngineError, match="has changed: its key is"):
        find_engine(bundle, key_of(bundle, compute_capability="8.9"))


def test_a_cut_plan_does_not_hide_a_whole_one(bundle: Bundle) -> None:
    whole = build(bundle, key_of(bundle, flags=("optimization-level=1",)))
    build(bundle).plan.write_bytes(b"cut")

    assert find_engine(bundle, key_of(bundle)) == whole


@pytest.mark.parametrize(
    ("field", "value"), [("bytes", "big"), ("seconds", []), ("built", "noon"), ("key", 3)]
)
def test_metadata_of_another_type_is_refused(bundle: Bundle, field: str, value: object) -> None:
    engine = build(bundle)
    content = json.loads((engine.folder / METADATA).read_text())
    (engine.folder / METADATA).write_text(json.dumps({**content, field: value}))

    with pytest.raises(EngineError, match="cannot be read"):
        read_engine(engine.folder)


def test_a_broken_engine_does_not_hide_a_whole_one(bundle: Bundle) -> None:
    (build(bundle, key_of(bundle, compute_capability="7.5")).folder / METADATA).write_text("{")
    whole = build(bundle)

    assert find_engine(bundle, key_of(bundle)) == whole


def test_a_build_that_fails_leaves_nothing(bundle: Bundle) -> None:
    def fail() -> None:
        with new_engine(bundle.folder, key_of(bundle)) as partial:
            (partial / PLAN).write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert list((bundle.folder / ENGINES).iterdir()) == []


def test_a_new_engine_takes_the_place_of_the_old(bundle: Bundle) -> None:
    build(bundle, plan=b"old")
    build(bundle, plan=b"new")

    assert find_engine(bundle, key_of(bundle)).plan.read_bytes() == b"new"
    assert len(list((bundle.folder / ENGINES).iterdir())) == 1


def hold(folder: Path, key: EngineKey) -> None:
    with new_engine(folder, key) as partial:
        (partial / PLAN).write_bytes(b"half")
        time.sleep(60)


def test_two_builders_of_one_engine_do_not_meet_and_a_killed_one_leaves_no_lock(
    bundle: Bundle,
) -> None:
    key = key_of(bundle)
    other = multiprocessing.get_context("fork").Process(target=hold, args=(bundle.folder, key))
    other.start()
    while not list(bundle.folder.glob(f"{ENGINES}/.*/{PLAN}")):
        time.sleep(0.01)

    with pytest.raises(EngineError, match=f"Another process is building the engine {key.digest}"):
        build(bundle)
    build(bundle, key_of(bundle, compute_capability="8.9"))
    assert other.pid is not None
    os.kill(other.pid, signal.SIGKILL)
    other.join()

    assert build(bundle).plan.read_bytes() == b"a plan"


def test_a_place_that_cannot_be_written_is_named(bundle: Bundle) -> None:
    (bundle.folder / ENGINES).write_text("a file where a folder must be")

    with pytest.raises(EngineError, match="cannot be written"):
        build(bundle)


def test_engines_come_along_when_a_bundle_is_extended(bundle: Bundle) -> None:
    engine = build(bundle)

    with extended_bundle(bundle, dropped=()) as folder:
        write_manifest(folder, dataclasses.replace(bundle.manifest, files={}))

    extended = open_bundle(bundle.folder)
    assert find_engine(extended, key_of(extended)) == engine
    assert not any(name.startswith(ENGINES) for name in extended.manifest.files)


def test_an_int8_engine_depends_on_the_ranges(tmp_path: Path) -> None:
    manifest = toy_manifest()
    graphs = {**manifest.graphs, "denoiser.int8": manifest.graphs["denoiser.fp32"]}
    files = {"denoiser.fp32.onnx": "a", "calibration/ranges.json": "b"}
    manifest = dataclasses.replace(manifest, graphs=graphs, files=files)

    keys = {
        name: key_for(
            Bundle(tmp_path, manifest),
            f"denoiser.{name}",
            builder="tensorrt",
            builder_version="10.3.0",
            cuda_major="12",
            recipe=1,
            compute_capability="8.7",
            gpu="Orin",
        )
        for name in ("fp32", "int8")
    }

    assert isinstance(manifest, Manifest)
    assert keys["fp32"].calibration_sha256 == ""
    assert keys["int8"].calibration_sha256 == "b"
