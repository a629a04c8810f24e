from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitstop.runtime.bundle.manifest import GraphSpec, TensorSpec
from pitstop.runtime.sampling.condition import Condition
from pitstop.runtime.sampling.conditioner import ConditionedRun, Conditioner
from pitstop.runtime.sampling.schedule import FlowSchedule
from pitstop.runtime.sampling.schedule.flow import LinearFlow
from pitstop.runtime.session import Array

ROWS = 4
STEP_BYTES = 2 * 3 * 4  # of one row: [chunk, channel] of float32
SPEC = GraphSpec(
    path="conditioner.onnx",
    inputs=(TensorSpec("timestep", (ROWS,), "float32"), TensorSpec("label", (ROWS,), "int64")),
    outputs=(TensorSpec("modulation", (ROWS, 2, 3), "float32"),),
    opset=18,
    nodes={},
    weight_bytes=0,
)


def modulation_of(timestep: float, label: float) -> Array:
    """A row that no other pair of timestep and label has."""
    chunks = np.array([[timestep, label, 1.0], [label, timestep, -1.0]])
    return chunks.astype(np.float32)


class Graph:
    """Keeps what it was asked, and how often it was opened and closed."""

    device = "fake"

    def __init__(self) -> None:
        self.asked: list[list[tuple[float, int]]] = []
        self.opened = self.closed = 0
        self.fails = 0

    def open(self) -> "Graph":
        self.opened += 1
        return self

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        assert self.opened == self.closed + 1
        assert feeds["timestep"].dtype == np.float32
        assert feeds["label"].dtype == np.int64
        if self.fails:
            self.fails -= 1
            raise RuntimeError("out of memory")
        pairs = list(zip(feeds["timestep"].tolist(), feeds["label"].tolist(), strict=True))
        assert len(pairs) == ROWS
        self.asked.append(pairs)
        return {"modulation": np.stack([modulation_of(*pair) for pair in pairs])}

    def close(self) -> None:
        self.closed += 1

    @property
    def pairs(self) -> list[tuple[float, int]]:
        return [pair for call in self.asked for pair in call]


class Runs:
    """Runs on one conditioner, with labels by number, that keep what the denoiser was fed."""

    def __init__(self, conditioner: Conditioner) -> None:
        self.conditioner = conditioner
        self.run: ConditionedRun | None = None
        self.modulations: list[Array] = []

    def prepare(self, timesteps: Iterable[float], labels: Iterable[int]) -> None:
        self.run = self.conditioner.prepare(timesteps, map(label, labels))

    def feed(self, timesteps: list[float], labels: list[int]) -> None:
        told = [label(one) for one in labels]
        run = self.run or self.conditioner.prepare(timesteps, told)
        fed = run.rows(timesteps, told)
        assert fed.keys() == {"modulation"}
        self.modulations.append(fed["modulation"])


def label(index: int) -> Condition:
    return Condition({"label": np.asarray(index, dtype=np.int64)})


def make(chunk_bytes: int = 1 << 20) -> tuple[Runs, Graph]:
    graph = Graph()
    return Runs(Conditioner(graph.open, SPEC, chunk_bytes)), graph


def run_step(runs: Runs, timestep: float, labels: list[int]) -> None:
    runs.feed([timestep] * len(labels), labels)


def assert_fed(runs: Runs, timestep: float, labels: list[int]) -> None:
    wanted = np.stack([modulation_of(timestep, label) for label in labels])
    np.testing.assert_array_equal(runs.modulations[-1], wanted)
    assert runs.modulations[-1].dtype == np.float32


def test_every_row_gets_the_modulation_of_its_timestep_and_label() -> None:
    session, _ = make()
    session.prepare([999, 500, 0], [7, 2])

    for timestep in (999, 500, 0):
        run_step(session, timestep, [2, 7, 7])
        assert_fed(session, timestep, [2, 7, 7])


def test_rows_of_different_timesteps_go_in_one_call() -> None:
    session, _ = make()
    session.prepare([9, 5], [1, 2])

    session.feed([5, 9], [2, 1])

    wanted = np.stack([modulation_of(5, 2), modulation_of(9, 1)])
    np.testing.assert_array_equal(session.modulations[-1], wanted)


def test_the_conditioner_is_asked_many_rows_a_call_and_the_last_is_padded() -> None:
    session, conditioner = make()

    session.prepare([8, 6, 4], [1, 0])

    assert conditioner.asked == [[(8, 1), (8, 0), (6, 1), (6, 0)], [(4, 1), (4, 0), (4, 0), (4, 0)]]


def test_labels_that_come_twice_are_asked_once() -> None:
    session, conditioner = make()
    session.prepare([8, 6], [1, 1, 0, 0, 1])
    assert conditioner.asked == [[(8, 1), (8, 0), (6, 1), (6, 0)]]


def test_the_conditioner_is_closed_before_the_loop_and_not_opened_in_it() -> None:
    session, conditioner = make()
    session.prepare(range(20), [0, 1])
    assert (conditioner.opened, conditioner.closed) == (1, 1)

    for timestep in range(20):
        run_step(session, timestep, [0, 1])

    assert (conditioner.opened, conditioner.closed) == (1, 1)


def test_the_same_run_again_asks_nothing() -> None:
    session, conditioner = make()
    session.prepare([8, 6], [0, 1])
    session.prepare([8, 6], [1, 0])
    session.prepare([6], [1])
    assert conditioner.opened == 1


def test_another_run_is_asked_for() -> None:
    session, conditioner = make()
    session.prepare([8, 6], [0, 1])

    session.prepare([8, 6], [0, 2])
    run_step(session, 6, [2, 0])

    assert conditioner.opened == 2
    assert_fed(session, 6, [2, 0])


@pytest.mark.parametrize("visit", [LinearFlow.visit, LinearFlow.visit_twice])
def test_the_times_of_a_flow_are_made_once_and_found_again(
    visit: Callable[[LinearFlow, int], FlowSchedule],
) -> None:
    session, conditioner = make()
    times = visit(LinearFlow(1), 7).timesteps.tolist()  # sevenths, which float32 rounds
    session.prepare(times, [0, 1])

    for time in times:
        run_step(session, time, [1, 0])
        assert_fed(session, float(np.float32(time)), [1, 0])

    assert conditioner.opened == 1
    assert len(set(conditioner.pairs)) == 2 * len(set(times))


def test_without_prepare_each_call_makes_what_it_needs() -> None:
    session, conditioner = make()

    for timestep in (8, 6):
        run_step(session, timestep, [3, 1])
        assert_fed(session, timestep, [3, 1])

    assert conditioner.closed == 2


def test_calls_beside_the_run_get_their_own_rows() -> None:
    session, _ = make()
    session.prepare([8, 6], [0, 1])

    for timestep, labels in [(7, [0, 1]), (8, [5, 0]), (8, [1, 0]), (6, [0, 1])]:
        run_step(session, timestep, labels)
        assert_fed(session, timestep, labels)


def test_a_long_run_is_made_in_chunks_of_steps() -> None:
    session, conditioner = make(chunk_bytes=2 * 2 * STEP_BYTES)  # two steps, two labels
    steps = [9, 7, 5, 3, 1]

    session.prepare(steps, [0, 1])
    assert {step for step, _ in conditioner.pairs} == {9, 7}
    for timestep in steps:
        run_step(session, timestep, [1, 0])
        assert_fed(session, timestep, [1, 0])

    assert (conditioner.opened, conditioner.closed) == (3, 3)
    assert conditioner.asked[2] == [(1, 0), (1, 1), (1, 1), (1, 1)]


def test_one_step_is_held_even_where_it_does_not_fit() -> None:
    session, conditioner = make(chunk_bytes=1)
    session.prepare([9, 7], [0, 1])

    for timestep in (9, 7):
        run_step(session, timestep, [1, 0])
        assert_fed(session, timestep, [1, 0])

    assert conditioner.opened == 2


@pytest.mark.parametrize("order", [[1, 3, 5, 7, 9], [5, 9, 1, 7, 3], [9, 9, 1, 9]])
def test_steps_of_a_chunked_run_may_come_in_any_order(order: list[int]) -> None:
    session, _ = make(chunk_bytes=2 * 2 * STEP_BYTES)
    session.prepare([9, 7, 5, 3, 1], [0, 1])

    for timestep in order:
        run_step(session, timestep, [0, 1])
        assert_fed(session, timestep, [0, 1])


def test_a_conditioner_that_fails_is_closed_and_may_be_asked_again() -> None:
    session, conditioner = make()
    session.prepare([8], [0])
    conditioner.fails = 1

    with pytest.raises(RuntimeError, match="out of memory"):
        session.prepare([6], [1])
    run_step(session, 8, [0])

    assert_fed(session, 8, [0])
    assert conditioner.opened == conditioner.closed


def test_what_is_forgotten_is_asked_for_again() -> None:
    session, conditioner = make()
    session.prepare([8], [0])

    session.conditioner.forget()

    session.prepare([8], [0])
    assert conditioner.opened == 2


def test_a_conditioner_without_a_timestep_is_asked_once_for_each_condition() -> None:
    asked: list[list[int]] = []

    class PerImage(Graph):
        def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
            assert feeds.keys() == {"label"}
            asked.append(feeds["label"].tolist())
            return {"keys": feeds["label"].astype(np.float32)[:, None] + 0.5}

    spec = GraphSpec(
        path="prompt.onnx",
        inputs=(TensorSpec("label", (2,), "int64"),),
        outputs=(TensorSpec("keys", (2, 1), "float32"),),
        opset=18,
        nodes={},
        weight_bytes=0,
    )
    run = Conditioner(PerImage().open, spec).prepare([9, 7, 5], [label(4), label(6), label(4)])

    for timestep in (9, 7, 5):
        rows = run.rows([timestep] * 3, [label(6), label(4), label(6)])
        assert rows["keys"].tolist() == [[6.5], [4.5], [6.5]]
    assert asked == [[4, 6]]


def test_runs_of_several_threads_get_their_own_rows() -> None:
    conditioner = Conditioner(lambda: Graph().open(), SPEC, chunk_bytes=2 * STEP_BYTES)

    def draw(seed: int) -> bool:
        labels = [seed, seed + 1]
        runs = Runs(conditioner)
        runs.prepare([9, 7, 5], labels)
        for timestep in (9, 7, 5):
            run_step(runs, timestep, labels)
            assert_fed(runs, timestep, labels)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(draw, range(40)))


LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=4)
STEPS = st.lists(st.integers(0, 9), min_size=1, max_size=10)


@given(
    steps=STEPS,
    labels=LABELS,
    calls=st.lists(st.tuples(st.integers(0, 9), LABELS), max_size=6),
    chunk_bytes=st.integers(0, 12 * STEP_BYTES),
)
def test_whatever_is_asked_every_row_is_right(
    steps: list[int], labels: list[int], calls: list[tuple[int, list[int]]], chunk_bytes: int
) -> None:
    session, conditioner = make(chunk_bytes)
    session.prepare(steps, labels)

    for timestep, asked in [*((step, labels) for step in steps), *calls]:
        run_step(session, timestep, asked)
        assert_fed(session, timestep, asked)

    assert conditioner.opened == conditioner.closed


@given(steps=st.sets(st.integers(0, 9), min_size=1), labels=LABELS, fitting=st.integers(1, 12))
def test_a_run_in_order_asks_for_each_pair_once_and_holds_no_more_than_fits(
    steps: set[int], labels: list[int], fitting: int
) -> None:
    session, conditioner = make(fitting * len(set(labels)) * STEP_BYTES)
    falling = sorted(steps, reverse=True)
    session.prepare(falling, labels)

    for timestep in falling:
        run_step(session, timestep, labels)

    assert set(conditioner.pairs) == {(step, one) for step in steps for one in labels}
    assert conditioner.opened == -(-len(steps) // fitting)
