"""The loop with effects that only take notes: what is called, when, and that nothing can come between."""

import json
from dataclasses import dataclass, field, replace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.stop import Stopped
from jaxcnn.train.loop import NonFinite, Position, Timetable, Totals, fit

TABLE = Timetable(total_steps=6, batch_size=5, log_every=2, eval_every=3, checkpoint_every=4)


@dataclass(frozen=True)
class State:
    step: int = 0
    params: np.ndarray = field(default_factory=lambda: np.zeros(()))
    batch_stats: dict = field(default_factory=dict)
    ema: None = None


class OnDevice:
    """An array as `fit` reads it from a device."""

    def __init__(self, value):
        self.value = np.asarray(value)

    def copy_to_host_async(self):
        pass

    def __array__(self, dtype=None, copy=None):
        return self.value


class Killed(Exception):
    pass


class World:
    """Everything outside of the loop: the disk, signals, callbacks that ask for the end, and death."""

    def __init__(self, table=TABLE, *, bad_loss=None, bad_params=None, end_at=None):
        self.table, self.bad_loss, self.bad_params, self.end_at = table, bad_loss, bad_params, end_at
        self.events, self.rows, self.saved = [], [], None
        self.stop_at, self.stop_in, self.kill_at, self.calls = None, None, None, 0

    def _live(self):
        self.calls += 1
        if self.calls == self.kill_at:
            raise Killed

    def _note(self, name, step):
        self._live()
        self.events.append((name, step))
        if self.stop_in == (name, step):
            self.stop_in = None
            raise Stopped(15)

    def _row(self, *row):
        if row not in self.rows:  # as Log does
            self.rows.append(row)
        return "enough" if self.end_at == (row[1], row[0]) else ""

    def train(self, state, number):
        self._live()
        assert number == state.step
        step = state.step + 1
        params = np.asarray(np.nan) if step == self.bad_params else state.params * 3 + step
        loss = float("inf") if step == self.bad_loss else 0.1 * step
        sums = {"loss": np.float32(loss), "count": np.int32(2), "task": {"big": np.array([2**31 - 1, -step], np.int32)}}
        return replace(state, step=step, params=params), jax.tree.map(OnDevice, sums)

    def log(self, state, sums, position):
        self._note("log", position.step)
        assert state.step == position.step
        return self._row(position.step, "train", float(sums["loss"]), int(sums["count"]), *sums["task"]["big"].tolist())

    def evaluate(self, state):
        self._note("evaluate", state.step)
        return self._row(state.step, "val", float(state.params))

    def complete(self, state):
        self._note("complete", state.step)
        return replace(state, batch_stats={"completed": np.float32(1)})

    def save(self, state, position):
        self._note("save", position.step)
        self.saved = state, json.dumps(vars(position))

    def stop_requested(self, step):
        self._live()
        return 15 if self.stop_at is not None and step >= self.stop_at else None

    def progress(self, step, loss):
        assert loss == pytest.approx(0.05 * (step - 2))  # the mean of two steps ago, for which nothing has to wait

    @property
    def saved_position(self):
        return Position(**json.loads(self.saved[1]))

    def sit(self):
        """Go on from what is saved, as a new process would."""
        state, self.position = (State(), Position()) if self.saved is None else (self.saved[0], self.saved_position)
        self.rows = [row for row in self.rows if row[0] <= self.position.step]
        return fit(state, self.position, self.table, self.train, lambda step: step, self)


def test_effects_come_once_and_in_order():
    world = World()
    final = world.sit()
    assert world.events == [
        ("log", 2),
        ("evaluate", 3),
        ("save", 3),
        ("log", 4),
        ("save", 4),
        ("log", 6),
        ("complete", 6),
        ("save", 6),
    ]
    tenth = [float(np.float32(0.1 * step)) for step in range(7)]
    assert [row for row in world.rows if row[1] == "train"] == [
        (2, "train", tenth[1] + tenth[2], 4, 2**32 - 2, -3),
        (4, "train", tenth[3] + tenth[4], 4, 2**32 - 2, -7),
        (6, "train", tenth[5] + tenth[6], 4, 2**32 - 2, -11),
    ]
    assert final.step == 6 and final.batch_stats


def test_the_first_step_of_a_sitting_is_not_timed():
    world = World()
    world.sit()
    assert world.position.training_examples == (TABLE.total_steps - 1) * TABLE.batch_size
    assert 0 < world.position.training_seconds < 1


def test_a_stop_saves_the_step_it_came_in_and_nothing_else():
    world = World()
    world.stop_at = 1
    with pytest.raises(Stopped):
        world.sit()
    assert world.events == [("save", 1)]
    assert not world.saved_position.pending


def test_a_stop_before_the_first_step_has_nothing_to_save():
    world = World()
    world.stop_at = 0
    with pytest.raises(Stopped):
        world.sit()
    assert world.events == []


@pytest.mark.parametrize("broken_off", [("evaluate", 3), ("complete", 6)])
def test_what_a_stop_broke_off_is_done_first_when_the_run_goes_on(broken_off):
    world = World()
    world.stop_in = broken_off
    with pytest.raises(Stopped):
        world.sit()
    step = broken_off[1]
    assert world.events[-2:] == [broken_off, ("save", step)] and world.saved_position.pending
    world.events.clear()
    world.sit()
    assert world.events[:2] == [broken_off, ("save", step)] and not world.saved_position.pending


def test_a_stop_again_before_that_is_done_leaves_it_to_be_done():
    world = World()
    world.stop_in = ("evaluate", 3)
    for stop_at in (None, 0):
        world.stop_at = stop_at
        with pytest.raises(Stopped):
            world.sit()
    assert world.saved_position.pending and world.saved_position.step == 3


@pytest.mark.parametrize("bad", range(1, 7))
def test_nothing_is_written_from_a_loss_that_is_not_finite_on(bad):
    world = World(bad_loss=bad)
    with pytest.raises(NonFinite, match=f"the loss is not finite at step {bad}") as error:
        world.sit()
    assert error.value.step == bad
    assert all(step < bad for _, step in world.events)
    assert all(row[0] < bad for row in world.rows)


def test_parameters_that_are_not_finite_are_neither_scored_nor_saved():
    world = World(bad_params=3)
    with pytest.raises(NonFinite, match="a parameter is not finite at step 3"):
        world.sit()
    assert world.events == [("log", 2)]


@pytest.mark.parametrize("asks", [("train", 2), ("val", 3)])
def test_a_callback_that_asks_ends_the_run_with_a_checkpoint(asks):
    world = World(end_at=asks)
    final = world.sit()
    step = asks[1]
    assert world.events[-2:] == [("complete", step), ("save", step)]
    assert (final.step, world.position.ended, world.position.pending) == (step, "enough", False)
    assert final.batch_stats
    events = list(world.events)
    assert world.sit().step == step and world.events == events  # taken up again it is at its end


@pytest.mark.parametrize("asks", [("train", 2), ("val", 3)])
def test_a_stop_while_such_a_run_completes_is_made_up_for(asks):
    world, alone = World(end_at=asks), World(end_at=asks)
    expected = alone.sit()
    world.stop_in = ("complete", asks[1])
    with pytest.raises(Stopped):
        world.sit()
    assert (world.saved_position.pending, world.saved_position.ended) == (True, "enough")
    final = world.sit()
    assert (final.step, final.batch_stats, world.rows) == (expected.step, expected.batch_stats, alone.rows)


sums_trees = st.lists(
    st.tuples(
        st.integers(0, 2**31 - 1),
        st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=3),
        st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=2, max_size=2),
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=100)
@given(sums_trees, st.integers(0, 40))
def test_sums_of_whole_numbers_are_exact_and_others_in_float64_through_a_checkpoint(steps, saved_after):
    """Here up to 40 * 2**31, which int32 does not hold."""
    totals = Totals([])
    for number, (count, whole, real) in enumerate(steps):
        if number == saved_after:
            totals = Totals(json.loads(json.dumps(totals.encoded())))
        task = {"confusion": np.array(whole, np.int32), "real": np.array(real, np.float32), "wide": np.uint32(count)}
        totals.add({"loss": np.float32(1), "count": np.int32(count), "task": task}, number + 1)
    found = totals.take()
    counts, wholes, reals = zip(*steps, strict=True)
    assert int(found["count"]) == int(found["task"]["wide"]) == sum(counts)
    assert found["task"]["confusion"].tolist() == [sum(column) for column in zip(*wholes, strict=True)]
    expected = np.zeros(2)
    for real in reals:
        expected += np.array(real, np.float64)
    np.testing.assert_array_equal(found["task"]["real"], expected)
    assert totals.encoded() == ()


tables = st.builds(
    Timetable,
    total_steps=st.integers(1, 12),
    batch_size=st.just(1),
    log_every=st.integers(1, 5),
    eval_every=st.integers(1, 5),
    checkpoint_every=st.none() | st.integers(1, 4),
)
disturbances = st.lists(
    st.tuples(st.sampled_from(["kill", "stop", "break"]), st.integers(0, 40)), min_size=1, max_size=6
)


ends = st.none() | st.tuples(st.sampled_from(["train", "val"]), st.integers(1, 12))


@settings(deadline=None, max_examples=300)
@given(tables, disturbances, ends)
def test_any_kills_and_stops_leave_the_rows_and_the_state_of_an_undisturbed_run(table, disturbances, end_at):
    alone = World(table, end_at=end_at)
    expected = alone.sit()
    world = World(table, end_at=end_at)
    for kind, when in disturbances:
        world.calls, world.kill_at, world.stop_at, world.stop_in = 0, None, None, None
        if kind == "kill":
            world.kill_at = 1 + when
        elif kind == "stop":
            world.stop_at = when
        else:
            step = 1 + when % table.total_steps
            last = step in (table.total_steps, end_at and end_at[1])
            world.stop_in = ("complete" if last else "evaluate", step)
        try:
            world.sit()
        except (Killed, Stopped):
            continue
    world.kill_at = world.stop_at = world.stop_in = None
    final = world.sit()
    assert (final.step, float(final.params), final.batch_stats) == (
        expected.step,
        float(expected.params),
        expected.batch_stats,
    )
    assert world.rows == alone.rows
    assert world.position.ended == alone.position.ended
