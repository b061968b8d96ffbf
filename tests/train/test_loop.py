"""The loop with effects that only take notes: what is called, when, and that nothing can come between."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.stop import Stopped
from jaxcnn.train.loop import NEVER, Effects, NonFinite, Position, Timetable, fit

TABLE = Timetable(total_steps=6, batch_size=5, log_every=2, eval_every=3, checkpoint_every=4)


@dataclass(frozen=True)
class State:
    step: int = 0
    params: np.ndarray = field(default_factory=lambda: np.zeros(()))
    batch_stats: dict = field(default_factory=dict)
    ema: None = None


class OnDevice:
    """A scalar as `fit` reads it from a device."""

    def __init__(self, value):
        self.value = value

    def addressable_data(self, index):
        return np.asarray(self.value)


class Killed(Exception):
    pass


class World:
    """Everything outside of the loop: the disk, signals and death."""

    def __init__(self, table=TABLE, *, bad_loss=None, bad_params=None):
        self.table, self.bad_loss, self.bad_params = table, bad_loss, bad_params
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

    def train(self, state, window, arguments):
        self._live()
        (number,) = arguments
        assert number == state.step
        step = state.step + 1
        params = np.asarray(np.nan) if step == self.bad_params else state.params * 3 + step
        loss = float("inf") if step == self.bad_loss else float(step)
        bad = min(window["bad_step"].value, NEVER if np.isfinite(loss) else step)
        window = {"loss": OnDevice(window["loss"].value + loss), "bad_step": OnDevice(bad)}
        return replace(state, step=step, params=params), window, np.float32(loss)

    def window(self, sums):
        values = {"loss": 0.0, "bad_step": NEVER} | dict(sums)
        return {name: OnDevice(value) for name, value in values.items()}

    def log_metrics(self, state, sums, position):
        self._note("log", position.step)
        assert state.step == position.step
        self.rows.append((position.step, "train", sums["loss"]))

    def evaluate(self, state):
        self._note("evaluate", state.step)
        row = (state.step, "val", float(state.params))
        if row not in self.rows:  # as Log does
            self.rows.append(row)

    def complete(self, state):
        self._note("complete", state.step)
        return replace(state, batch_stats={"completed": np.float32(1)})

    def save(self, state, position):
        self._note("save", position.step)
        self.saved = (state, replace(position, sums=dict(position.sums)))

    def stop_requested(self, step):
        self._live()
        return 15 if self.stop_at is not None and step >= self.stop_at else None

    def sit(self):
        """Go on from what is saved, as a new process would."""
        state, position = (State(), Position()) if self.saved is None else self.saved
        self.position = replace(position, sums=dict(position.sums))
        self.rows = [row for row in self.rows if row[0] <= position.step]
        effects = Effects(
            train=self.train,
            arguments=lambda step: (step,),
            view=lambda state: state,
            window=self.window,
            log_metrics=self.log_metrics,
            evaluate=self.evaluate,
            complete=self.complete,
            save=self.save,
            stop_requested=self.stop_requested,
            progress=lambda step, loss: None,
        )
        return fit(state, self.position, self.table, effects)


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
    assert [row for row in world.rows if row[1] == "train"] == [
        (2, "train", 3.0),
        (4, "train", 7.0),
        (6, "train", 11.0),
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
    assert not world.saved[1].pending


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
    assert world.events[-2:] == [broken_off, ("save", step)] and world.saved[1].pending
    world.events.clear()
    world.sit()
    assert world.events[:2] == [broken_off, ("save", step)] and not world.saved[1].pending


def test_a_stop_again_before_that_is_done_leaves_it_to_be_done():
    world = World()
    world.stop_in = ("evaluate", 3)
    for stop_at in (None, 0):
        world.stop_at = stop_at
        with pytest.raises(Stopped):
            world.sit()
    assert world.saved[1].pending and world.saved[1].step == 3


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


@settings(deadline=None, max_examples=200)
@given(tables, disturbances)
def test_any_kills_and_stops_leave_the_rows_and_the_state_of_an_undisturbed_run(table, disturbances):
    alone = World(table)
    expected = alone.sit()
    world = World(table)
    for kind, when in disturbances:
        world.calls, world.kill_at, world.stop_at, world.stop_in = 0, None, None, None
        if kind == "kill":
            world.kill_at = 1 + when
        elif kind == "stop":
            world.stop_at = when
        else:
            step = 1 + when % table.total_steps
            world.stop_in = ("complete" if step == table.total_steps else "evaluate", step)
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
