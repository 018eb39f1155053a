import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_builder.errors import InputError
from dtvit_jax.runtime import quiet_libraries
from dtvit_jax.training.checkpoint import Checkpoints, saved_config
from dtvit_jax.training.damaged import Damaged, check, checksums
from dtvit_jax.training.steps import TrainState


def state_at(step, size=300, **params):
    rng = np.random.default_rng(step)
    kernel = jnp.asarray(rng.normal(size=(size, size)), jnp.float32)
    params = {"encoder": {"blocks": {0: {"kernel": kernel}}}, **params}
    ema = {"params": jax.tree.map(lambda x: x + 1, params), "stats": {}}
    return TrainState(
        jnp.int32(step), params, {}, {"mu": jax.tree.map(jnp.zeros_like, params)}, ema
    )


def abstract(state):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), state)


def saved(workdir, steps=(1, 2), losses=None, **options):
    checkpoints = Checkpoints(workdir, "loss", **options)
    for step in steps:
        metrics = {"loss": losses[step]} if losses else None
        checkpoints.save(step, state_at(step), {"history": [step], "config": {"a": 1}}, metrics)
    checkpoints.close()
    return workdir


def same(one, two):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(two)))


def array_files(folder):
    """The files of the state's arrays: Orbax may write them to one or to several."""
    return [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size > 10_000]


def flip(folder):
    """Flips bits of every array of the state."""
    for path in array_files(folder):
        content = bytearray(path.read_bytes())
        for position in range(0, len(content), 10_000):
            content[position] ^= 1
        path.write_bytes(content)


def truncate(folder):
    for path in array_files(folder):
        os.truncate(path, 1000)


def remove(folder):
    for path in array_files(folder):
        path.unlink()


def break_progress(folder):
    (folder / "progress" / "metadata").write_text("{")


@pytest.mark.parametrize("damage", [flip, truncate, remove, break_progress])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, capsys, damage):
    saved(tmp_path, keep=2)
    damage(tmp_path / "checkpoints" / "2")
    checkpoints = Checkpoints(tmp_path, "loss", keep=2)
    state, progress = checkpoints.restore_latest(abstract(state_at(1)))
    assert same(state, state_at(1)) and progress["history"] == [1]
    said = capsys.readouterr().err
    assert f"{tmp_path}/checkpoints/2: a damaged checkpoint" in said and "the one before" in said
    assert (tmp_path / "damaged" / "2_0").is_dir()  # nothing is thrown away
    checkpoints.save(2, state_at(2), {}, None)  # the step can be saved again
    checkpoints.close()
    assert same(Checkpoints(tmp_path, "loss").restore(2, abstract(state_at(1)))[0], state_at(2))


@pytest.mark.parametrize("damage", [flip, truncate, remove, break_progress, shutil.rmtree])
def test_a_damaged_checkpoint_is_named_as_the_workdir_was_given(
    tmp_path, monkeypatch, capsys, damage
):
    monkeypatch.chdir(tmp_path)
    saved(Path("run"), keep=2)
    damage(tmp_path / "run" / "checkpoints" / "2")
    (tmp_path / "run" / "checkpoints" / "2").mkdir(exist_ok=True)
    with pytest.raises(Damaged) as error:
        Checkpoints(Path("run"), "loss", read_only=True).restore_model(2)
    assert str(tmp_path) not in str(error.value) and "run/checkpoints/2: a" in str(error.value)
    Checkpoints(Path("run"), "loss", keep=2).restore_latest(abstract(state_at(1)))
    assert str(tmp_path) not in capsys.readouterr().err


BAD_METRICS = [b"", b"{", b"\xff\x00", b"[]", b"{}", b'{"loss": "low"}', b'{"loss": NaN}', b"null"]


@pytest.mark.parametrize("content", BAD_METRICS)
def test_a_checkpoint_with_damaged_figures_is_set_aside(tmp_path, capsys, content):
    saved(tmp_path, losses={1: 2.0, 2: 1.0}, keep=2)
    file = tmp_path / "checkpoints" / "2" / "metrics" / "metrics"
    file.write_bytes(content)
    with pytest.raises(Damaged, match=f"{file} is damaged"):
        Checkpoints(tmp_path, "loss", read_only=True)
    assert file.exists()
    checkpoints = Checkpoints(tmp_path, "loss", keep=2)
    message = capsys.readouterr().err
    assert f"{file} is damaged" in message and message.count("\n") == 1
    assert (tmp_path / "damaged" / "2_0" / "metrics" / "metrics").read_bytes() == content
    state, progress = checkpoints.restore_latest(abstract(state_at(1)))
    assert same(state, state_at(1)) and progress["history"] == [1]
    checkpoints.save(2, state_at(2), {}, {"loss": 1.0})
    checkpoints.close()
    assert Checkpoints(tmp_path, "loss", read_only=True).best == 2


def test_damaged_figures_of_the_only_checkpoint_do_not_start_the_run_again(tmp_path):
    saved(tmp_path, steps=(1,), losses={1: 2.0})
    (tmp_path / "checkpoints" / "1" / "metrics" / "metrics").write_text("{")
    with pytest.raises(InputError, match="no whole checkpoint is left"):
        Checkpoints(tmp_path, "loss")


def test_where_all_are_damaged_that_is_said(tmp_path):
    saved(tmp_path, keep=2)
    for step in ("1", "2"):
        flip(tmp_path / "checkpoints" / step)
    with pytest.raises(InputError, match="no whole checkpoint is left"):
        Checkpoints(tmp_path, "loss").restore_latest(abstract(state_at(1)))
    assert len(list((tmp_path / "damaged").iterdir())) == 2


def test_a_damaged_best_is_not_evaluated(tmp_path):
    saved(tmp_path, steps=(1, 2), losses={1: 1.0, 2: 2.0})
    flip(tmp_path / "checkpoints" / "1")
    for how in (None, abstract(state_at(1))):
        with pytest.raises(Damaged, match=r"1: a damaged checkpoint \(.*\): move it away, and the"):
            Checkpoints(tmp_path, "loss", read_only=True).restore_model(1, how)
    (tmp_path / "checkpoints" / "1").rename(tmp_path / "away")
    left = Checkpoints(tmp_path, "loss", read_only=True)
    params, _ = left.restore_model(left.best)
    assert left.best == 2 and same(params, state_at(2).ema["params"])


def test_a_checkpoint_holds_no_path_and_one_of_an_older_version_loses_it(tmp_path):
    saved(tmp_path)
    marks = list((tmp_path / "checkpoints").rglob("commit_success.txt"))
    assert marks and all(str(tmp_path) not in mark.read_text() for mark in marks)
    marks[0].write_text(f"Checkpoint commit was successful to {tmp_path}")
    Checkpoints(tmp_path, "loss").close()
    assert str(tmp_path) not in marks[0].read_text()


def test_a_checkpoint_of_another_model_is_refused_and_left_in_place(tmp_path):
    saved(tmp_path)
    checkpoints = Checkpoints(tmp_path, "loss")
    for other in (state_at(1, size=200), state_at(1, more=jnp.zeros(3))):
        with pytest.raises(InputError, match="does not fit the config") as error:
            checkpoints.restore_latest(abstract(other))
        assert not isinstance(error.value, Damaged)
    assert same(checkpoints.restore(2, abstract(state_at(1)))[0], state_at(2))


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5, 5: 2.2}
    saved(tmp_path, losses, losses, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "4", "5"]
    assert Checkpoints(tmp_path, "loss", read_only=True).best == 2


def test_what_is_saved_is_the_state_at_that_time(tmp_path):
    """The next steps take its memory while it is still being written."""
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    checkpoints, state = Checkpoints(tmp_path, "loss"), state_at(1, size=1500)
    checkpoints.save(1, state, {}, None)
    for _ in range(20):
        state = step(state)
    jax.block_until_ready(state)
    checkpoints.close()
    restored, _ = Checkpoints(tmp_path, "loss").restore(1, abstract(state))
    assert same(restored, state_at(1, size=1500))


def test_the_average_is_the_model_where_there_is_one(tmp_path):
    saved(tmp_path, steps=(1,))
    checkpoints = Checkpoints(tmp_path, "loss", read_only=True)
    wanted = state_at(1).ema["params"]
    assert same(checkpoints.restore_model(1)[0], wanted)
    assert same(checkpoints.restore_model(1, abstract(state_at(1)))[0], wanted)
    assert saved_config(tmp_path) == {"a": 1}


@pytest.mark.parametrize("seen_before", [True, False], ids=["seen before", "met in the save"])
def test_a_full_disk_is_said_once_and_loses_nothing(small_disk, seen_before, monkeypatch, caplog):
    quiet_libraries()
    if not seen_before:
        monkeypatch.setattr(
            "dtvit_jax.training.checkpoint.check_room", lambda workdir, needed: None
        )
    small_disk = small_disk(2700)  # two of three checkpoints of 1.1 MB find room
    checkpoints = Checkpoints(small_disk, "loss", keep=3)
    with pytest.raises(InputError, match="what was saved before is whole"):
        for step in (1, 2, 3):
            checkpoints.save(step, state_at(step), {}, None)
        checkpoints.close()
    assert not caplog.records  # Orbax's thread would log a traceback besides
    again = Checkpoints(small_disk, "loss", keep=3)
    last = again.latest
    assert last is not None and last < 3
    assert same(again.restore_latest(abstract(state_at(1)))[0], state_at(last))


@pytest.mark.parametrize("kind", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_a_checksum_is_the_same_in_numpy_and_on_a_device(kind):
    there = {"params": {"a": jnp.arange(-30, 30).reshape(6, 10).astype(kind), "b": kind(7)}}
    here = jax.tree.map(np.array, there)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(here))
    saved = checksums(there)
    check(here, saved)
    here["params"]["a"][2, 3] += 1
    with pytest.raises(ValueError, match="checksum of its params"):
        check(here, saved)
