import errno
import itertools
import os
import shutil
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcnn.errors import RunError
from jaxcnn.train import checkpoint as module
from jaxcnn.train.checkpoint import POSITION, SUMS, Checkpoints, DamagedCheckpoint

POSITIONS = {1: {"step": 1, "sums": {"loss": 1 / 3}, "pending": True}, 2: {"step": 2, "sums": {}, "pending": False}}


def state(step):
    key = jax.random.key(step)
    return {
        "step": jnp.int32(step),
        "params": {"conv": {"kernel": jax.random.normal(key, (3, 3, 2, 4))}, "bias": jnp.full(4, jnp.inf)},
        "key": jax.random.key_data(key),
    }


def like(tree, sharding=None):
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def names(checkpoints):
    return sorted(path.name for path in checkpoints.folder.iterdir())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    checkpoints = Checkpoints(tmp_path_factory.mktemp("saved") / "checkpoints")
    for step, position in POSITIONS.items():
        checkpoints.save(step, state(step), position)
    return checkpoints.folder


@pytest.fixture
def two(saved, tmp_path):
    """Checkpoints of steps 1 and 2, to be changed."""
    shutil.copytree(saved, tmp_path / "checkpoints")
    return Checkpoints(tmp_path / "checkpoints")


def test_what_was_saved_comes_back_bit_for_bit(two):
    assert two.steps() == [1, 2]
    for step, position in POSITIONS.items():
        found, values = two.restore(step, like(state(step)))
        assert same(found, state(step))
        assert values == position
    assert names(two) == ["00000001", "00000002"]


def test_arrays_come_back_with_the_sharding_asked_for(two):
    replicated = NamedSharding(Mesh(np.asarray(jax.devices()), ("data",)), PartitionSpec())
    found, _ = two.restore(2, like(state(2), replicated))
    assert all(leaf.sharding == replicated for leaf in jax.tree.leaves(found))
    assert same(found, state(2))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove(path):
    path.unlink()


def add(path):
    path.with_name("more").write_bytes(b"")


def test_any_damage_to_any_file_of_the_newest_is_noticed(saved, tmp_path):
    files = [path.relative_to(saved) for path in (saved / "00000002").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {POSITION, SUMS, "_METADATA"}
    for number, (name, damage) in enumerate(itertools.product(files, (cut, flip, remove, add))):
        copy = tmp_path / str(number)
        shutil.copytree(saved, copy, copy_function=os.link)
        whole = (copy / name).read_bytes()
        if not whole and damage in (cut, flip):
            continue
        (copy / name).unlink()
        (copy / name).write_bytes(whole)
        damage(copy / name)
        with pytest.raises(DamagedCheckpoint):
            module.verify(copy / "00000002")
        module.verify(copy / "00000001")


def test_the_one_before_a_damaged_one_is_used_and_reported(two):
    flip(two.path(2) / POSITION)
    found, position, reports = two.restore_newest(like(state(1)))
    assert same(found, state(1)) and position == POSITIONS[1]
    assert reports == [f"checkpoint {two.path(2)} is damaged ({POSITION} is not as it was written): it is not used"]
    assert two.describe_newest() == f"the newest good checkpoint is {two.path(1)}"
    assert two.steps() == [1, 2]  # reading removes nothing
    two.drop_after(1)
    assert two.steps() == [1]


def test_where_all_are_damaged_nothing_is_removed(two):
    for step in two.steps():
        remove(two.path(step) / SUMS)
    with pytest.raises(RunError, match=r"no checkpoint is good: .*00000002.*00000001"):
        two.restore_newest(like(state(1)))
    assert two.steps() == [1, 2]
    assert two.describe_newest() == "there is no good checkpoint"


def test_an_empty_checkpoint_is_a_damaged_one(two):
    shutil.rmtree(two.path(2))
    two.path(2).mkdir()
    (two.path(2) / SUMS).touch()
    assert two.restore_newest(like(state(1)))[1] == POSITIONS[1]


def test_where_there_is_none(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.steps() == []
    assert checkpoints.describe_newest() == "there is no good checkpoint"
    with pytest.raises(LookupError):
        checkpoints.restore_newest(like(state(1)))
    assert not checkpoints.folder.exists()


def test_a_state_of_another_shape_is_refused_in_one_line(two):
    other = state(2) | {"ema": jnp.zeros(3)}
    with pytest.raises(RunError, match="00000002 does not hold the state of this experiment") as error:
        two.restore_newest(like(other))
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_the_same_step_is_replaced(two):
    two.save(2, state(7), POSITIONS[2] | {"pending": True})
    found, position = two.restore(2, like(state(7)))
    assert same(found, state(7)) and position["pending"]
    assert names(two) == ["00000001", "00000002"]


@pytest.mark.parametrize(
    ("keep", "best", "left"), [(1, None, [4]), (2, 1, [1, 3, 4]), (2, 4, [3, 4]), (9, 2, [1, 2, 3, 4])]
)
def test_the_newest_and_the_best_are_kept(tmp_path, keep, best, left):
    checkpoints = Checkpoints(tmp_path)
    for step in range(1, 5):
        checkpoints.path(step).mkdir()
    checkpoints.prune(keep, best)
    assert checkpoints.steps() == left


def test_what_a_killed_save_left_does_not_count_and_goes_with_the_next(two):
    for name in ("tmp-new-00000003", "tmp-old-00000002"):
        (two.folder / name / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    assert two.steps() == [1, 2]
    two.save(3, state(3), {})
    assert names(two) == ["00000001", "00000002", "00000003"]


def test_a_save_killed_while_it_replaces_a_checkpoint_leaves_it(two, monkeypatch):
    rename = Path.rename

    def killed(path, target):
        if path.name.startswith("tmp-new"):
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            two.save(2, state(7), {})
    assert names(two) == ["00000001", "tmp-new-00000002", "tmp-old-00000002"]
    two.recover()
    assert names(two) == ["00000001", "00000002"]
    found, position = two.restore(2, like(state(2)))
    assert same(found, state(2)) and position == POSITIONS[2]


@pytest.mark.parametrize("broken", ["sha256", "fsync", "_check_space"])
def test_a_failed_save_leaves_the_others_and_nothing_else(two, monkeypatch, broken):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module, broken, full)
        with pytest.raises(RunError, match=r"could not save the checkpoint of step 3 \(No space left on device\)"):
            two.save(3, state(3), {})
    assert names(two) == ["00000001", "00000002"]
    two.save(3, state(3), {})
    assert two.steps() == [1, 2, 3]


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up_under_orbax(small_disk, monkeypatch, caplog):
    monkeypatch.setattr(module, "_check_space", lambda path, size: None)
    checkpoints = Checkpoints(small_disk)
    with pytest.raises(RunError, match=r"could not save the checkpoint of step 1 \(No space left on device\)"):
        checkpoints.save(1, {"params": jax.random.normal(jax.random.key(0), (1_000_000,))}, {})
    assert list(small_disk.iterdir()) == []
    assert not caplog.records


def test_a_disk_that_fills_up(small_disk, capfd):
    checkpoints, step = Checkpoints(small_disk), 0
    big = {"params": jax.random.normal(jax.random.key(0), (100_000,))}
    with pytest.raises(RunError, match="No space left on device"):
        while True:
            checkpoints.save(step + 1, big, {})
            step += 1
    assert step >= 2
    assert checkpoints.steps() == list(range(1, step + 1)) and not list(small_disk.glob("tmp-*"))
    assert same(checkpoints.restore(step, like(big))[0], big)
    checkpoints.prune(1, None)
    checkpoints.save(step + 1, big, {})
    assert checkpoints.steps() == [step, step + 1]
    assert capfd.readouterr().err == ""
