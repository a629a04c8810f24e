"""What every backend must answer alike: a new file of ``runtime/backends/`` is asked too."""

from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import (
    one_line,
    some_latent,
    toy_manifest,
    toy_prediction,
    write_bundle,
    write_graph,
    zeros,
)

from pitstop import BackendUnavailable, OptionError, PitstopError
from pitstop.runtime import backends
from pitstop.runtime.backend import Backend, SessionOptions
from pitstop.runtime.backends import backend_names, import_backend, load_backend
from pitstop.runtime.bundle.folder import GraphFile
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.session import Session

SPEC = toy_manifest(batch=3).denoiser("fp32")
LABELS = [2, 0, 3]
ONE_THREAD = SessionOptions(threads=1)


@pytest.fixture(params=backend_names())
def name(request: pytest.FixtureRequest) -> str:
    backend = import_backend(request.param)
    if why := backend.why_not():
        pytest.skip(why)
    return str(request.param)


@pytest.fixture
def backend(name: str) -> Backend:
    return load_backend(name)


@pytest.fixture
def session(backend: Backend, tmp_path: Path) -> Session:
    path = write_graph(tmp_path / "toy.onnx", "denoiser", SPEC)
    return backend.open_graph(GraphFile(path, SPEC), ONE_THREAD)


def feeds(timestep: float, *, seed: int = 0) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    return {
        "latent": some_latent(3, seed=seed),
        "timestep": np.full(3, timestep, dtype=np.float32),
        "label": np.array(LABELS, dtype=np.int64),
    }


def test_a_run_gives_the_outputs_by_name(session: Session) -> None:
    found = session.run(feeds(500))

    assert found.keys() == {"prediction"}
    assert found["prediction"].dtype == np.float32
    wanted = toy_prediction(some_latent(3), 500, LABELS)
    np.testing.assert_allclose(found["prediction"], wanted, atol=1e-5)


def test_what_a_run_gave_stays_as_it_was_after_the_next(session: Session) -> None:
    first = session.run(feeds(500))["prediction"]
    kept = first.copy()

    second = session.run(feeds(20, seed=1))["prediction"]

    np.testing.assert_array_equal(first, kept)
    wanted = toy_prediction(some_latent(3, seed=1), 20, LABELS)
    np.testing.assert_allclose(second, wanted, atol=1e-5)


def test_the_same_feeds_give_the_same_bytes_and_are_left_alone(session: Session) -> None:
    fed = feeds(500)
    kept = {name: array.copy() for name, array in fed.items()}

    first, second = (session.run(fed)["prediction"].tobytes() for _ in range(2))

    assert first == second
    for name in fed:
        np.testing.assert_array_equal(fed[name], kept[name])


def test_what_is_fed_may_be_of_another_type_and_lie_anyhow_in_memory(session: Session) -> None:
    fed = feeds(500)
    wanted = session.run(fed)["prediction"]
    spread = np.repeat(fed["latent"].astype(np.float64), 2, axis=3)[..., ::2]

    found = session.run({
        "label": fed["label"].astype(np.int32),
        "latent": spread,
        "timestep": fed["timestep"].astype(np.int64),
    })

    np.testing.assert_array_equal(found["prediction"], wanted)


def test_two_sessions_do_not_disturb_each_other(backend: Backend, tmp_path: Path) -> None:
    path = write_graph(tmp_path / "toy.onnx", "denoiser", SPEC)
    first, second = (backend.open_graph(GraphFile(path, SPEC), ONE_THREAD) for _ in range(2))
    wanted = first.run(feeds(500))["prediction"].copy()

    second.run(feeds(20, seed=1))
    second.close()

    np.testing.assert_array_equal(first.run(feeds(500))["prediction"], wanted)


def test_a_conditioner_and_its_denoiser_give_what_the_whole_graph_gives(
    name: str, tmp_path: Path
) -> None:
    whole, split = (
        Pipeline.from_bundle(
            write_bundle(tmp_path / str(is_split), toy_manifest(split=is_split)),
            backend=name,
            options=ONE_THREAD,
        )
        for is_split in (False, True)
    )

    found, wanted = (pipeline([0, 2], steps=4).latents for pipeline in (split, whole))

    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_device_is_named(session: Session) -> None:
    assert session.device.strip()


def test_a_session_may_be_closed_twice(session: Session) -> None:
    session.run(zeros(SPEC))
    session.close()
    session.close()


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"not an ONNX file\nat all", b"\x08\x0a"])
def test_a_file_that_is_no_graph_is_told_in_one_line(
    backend: Backend, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "toy.onnx").write_bytes(content)
    with pytest.raises(PitstopError) as told:
        backend.open_graph(GraphFile(tmp_path / "toy.onnx", SPEC), ONE_THREAD)
    assert str(tmp_path / "toy.onnx") in one_line(told.value)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_truncated_graph_is_told_in_one_line(
    backend: Backend, tmp_path: Path, part: float
) -> None:
    path = write_graph(tmp_path / "toy.onnx", "denoiser", SPEC)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(PitstopError) as told:
        backend.open_graph(GraphFile(path, SPEC), ONE_THREAD)
    assert str(path) in one_line(told.value)


def test_a_missing_file_is_told_in_one_line(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(PitstopError) as told:
        backend.open_graph(GraphFile(tmp_path / "toy.onnx", SPEC), ONE_THREAD)
    assert str(tmp_path / "toy.onnx") in one_line(told.value)


def test_an_operator_that_nobody_knows_is_told_in_one_line(
    backend: Backend, tmp_path: Path
) -> None:
    path = write_graph(tmp_path / "toy.onnx", "denoiser", SPEC)
    path.write_bytes(path.read_bytes().replace(b"Tanh", b"Tenh"))
    with pytest.raises(PitstopError) as told:
        backend.open_graph(GraphFile(path, SPEC), ONE_THREAD)
    assert str(path) in one_line(told.value)


def test_an_unknown_execution_provider_is_told_with_the_known_ones(tmp_path: Path) -> None:
    backend = load_backend("onnxruntime")
    path = write_graph(tmp_path / "toy.onnx", "denoiser", SPEC)
    with pytest.raises(BackendUnavailable) as told:
        backend.open_graph(
            GraphFile(path, SPEC), SessionOptions(provider="AbacusExecutionProvider")
        )
    assert told.value.problem == "This ONNX Runtime has no AbacusExecutionProvider"
    assert "CPUExecutionProvider" in told.value.remedy
    one_line(told.value)


@pytest.mark.parametrize("name", ["onnx-runtime", "", "onnxruntime.py", "../loop"])
def test_an_unknown_backend_is_told_with_the_known_ones(name: str) -> None:
    with pytest.raises(OptionError) as told:
        load_backend(name)
    assert told.value.problem == f"There is no backend called {name!r}"
    assert told.value.remedy == f"Choose one of: auto, {', '.join(backend_names())}"
    one_line(told.value)


def test_auto_takes_a_backend_that_can_run() -> None:
    assert load_backend("auto").why_not() is None


class Unable:
    """A backend that cannot run here."""

    def why_not(self) -> str:
        return "the fuse has blown"

    def rank(self, options: SessionOptions, engines: object) -> tuple[int, str]:
        return 0, "it would be the fastest"


def test_auto_passes_over_what_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    able = import_backend("onnxruntime")
    monkeypatch.setattr(backends, "backend_names", lambda: ["abacus", "onnxruntime"])
    monkeypatch.setattr(
        backends, "import_backend", lambda name: able if name == "onnxruntime" else Unable()
    )
    assert load_backend("auto") is able


@pytest.mark.parametrize("name", ["auto", "abacus"])
def test_a_backend_that_cannot_run_is_told_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(backends, "backend_names", lambda: ["abacus"])
    monkeypatch.setattr(backends, "import_backend", lambda name: Unable())
    with pytest.raises(BackendUnavailable) as told:
        load_backend(name)
    assert told.value.problem == "The abacus backend cannot run here: the fuse has blown"
    assert "`pitstop doctor`" in one_line(told.value)
