"""Two real processes that meet over loopback; and what each decides by itself."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_builder.errors import InputError
from dtvit_jax.data.loader import evaluation_batches, training_batches
from dtvit_jax.train import train
from dtvit_jax.training import distributed
from dtvit_jax.training.sharding import batch_sharding, make_mesh
from tests.helpers import ROOT, tiny
from tests.helpers.held_main import HOLD_AT, HOLD_UNTIL

TINY = str(ROOT / "tests/helpers/tiny.py")
STEPS = 60
RATE = 3e-4
COORDINATOR, COUNT, WHICH = distributed.EXPLICIT
HERE = {COORDINATOR: "host0:8476", COUNT: "2", WHICH: "1"}
SLURM = {"SLURM_NTASKS": "16", "SLURM_STEP_NODELIST": "node[1-2]"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
INDEXED_JOB = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "16"}, None),  # in a batch script, outside srun
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        (SLURM, {"cluster_detection_method": "slurm"}),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (
            OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"},
            {"cluster_detection_method": "ompi"},
        ),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, {}),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, None),
    ],
)
def test_what_starts_the_processes(environment, expected):
    assert distributed.launch(environment) == expected


def test_explicit_processes_and_open_mpi_5():
    given = distributed.launch(SLURM | HERE)
    assert given is not None and given["cluster_detection_method"] == "deactivate"
    assert (given["coordinator_address"], given["num_processes"], given["process_id"]) == (
        "host0:8476",
        2,
        1,
    )
    given = distributed.launch(OPEN_MPI | {COORDINATOR: "host0:8476"})
    assert given is not None and (given["num_processes"], given["process_id"]) == (4, 3)
    assert given["local_device_ids"] == [1]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({COORDINATOR: "host0:8476"}, COUNT),
        ({COUNT: "2"}, COORDINATOR),
        ({COORDINATOR: "host0:8476", COUNT: "2"}, WHICH),
        (HERE | {WHICH: "2"}, "one below"),
        (HERE | {COUNT: "two"}, "numbers"),
        (HERE | {COORDINATOR: "host0"}, "HOST:PORT"),
        (OPEN_MPI, "Open MPI 5"),
        (INDEXED_JOB, "indexed job"),
    ],
)
def test_an_environment_that_does_not_fit_together(environment, said):
    with pytest.raises(InputError, match=said):
        distributed.launch(environment)


def test_patience_is_a_number():
    with pytest.raises(InputError, match=distributed.PATIENCE):
        distributed.connect(HERE | {distributed.PATIENCE: "soon"})


def test_one_process_has_every_row():
    placed = batch_sharding(make_mesh({"data": 1, "fsdp": 1}, jax.devices()[:1]))
    assert distributed.local_rows(placed, 8).tolist() == list(range(8))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.randoms(use_true_random=False))
def test_the_parts_of_all_processes_are_one_processes_batches(processes, each, random):
    """Whichever rows each process's devices hold."""
    size = processes * each
    rows = list(range(size))
    random.shuffle(rows)
    split = [np.array(sorted(rows[i::processes])) for i in range(processes)]
    image = np.zeros((2, 2), np.uint8)
    examples = [{"index": i, "image": image} for i in range(100, 100 + 6 * size - 1)]
    parts = [training_batches(examples, size, part, threads=1) for part in split]
    for batch in range(5):
        here = [int(i) for part in parts for i in next(part)["index"]]
        assert sorted(here) == [row["index"] for row in examples[batch * size :][:size]]
    for part in parts:
        with pytest.raises(StopIteration):
            next(part)


def test_validation_counts_each_slice_once_over_processes(shards):
    source = shards.source("validation")
    seen = []
    for rows in (np.arange(4), np.arange(4, 8)):
        for batch in evaluation_batches(source, 8, rows):
            assert len(batch["image"]) == 4
            seen += batch["index"][batch["mask"]].tolist()
    assert len(source) % 8 and sorted(seen) == list(range(len(source)))


def start_both(shards, workdir, hold_at=-1):
    """Two processes of one run; both wait before step `hold_at` + 1 until `let_go`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.helpers.held_main", f"--config={TINY}"]
    command += [f"--workdir={workdir}", f"--config.data.dir={shards.folder}"]
    command += ["--config.num_epochs=0"]
    command += [f"--config.num_steps={STEPS}", f"--config.learning_rate={RATE}"]
    command += ["--config.eval_every_epochs=4.0"]
    shared = os.environ | {COORDINATOR: f"127.0.0.1:{port}", COUNT: "2", distributed.PATIENCE: "20"}
    shared |= {HOLD_AT: str(hold_at), HOLD_UNTIL: str(workdir / f"go_{hold_at}")}
    options = {"cwd": ROOT, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen(command, env=shared | {WHICH: str(i)}, **options) for i in range(2)]


def let_go(workdir, hold_at):
    (workdir / f"go_{hold_at}").touch()


def finish(processes):
    """Exit statuses and what was said on standard error."""
    said = [process.communicate(timeout=300)[1] for process in processes]
    return [process.returncode for process in processes], said


def saved_steps(workdir):
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return [int(name) for name in names if name.isdigit()]


def wait_for_a_checkpoint(processes, workdir, after):
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        if max(saved_steps(workdir), default=0) > after:
            return
        time.sleep(0.02)
    raise AssertionError(finish(processes))


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    return {(row["step"], row["split"]): row["loss"] for row in rows}


def recipe(shards):
    config = tiny.get_config(shards.folder)
    config.num_epochs, config.num_steps, config.learning_rate = 0, STEPS, RATE
    config.eval_every_epochs = 4.0
    return config


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory):
    """The same run in one process on one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    assert train(recipe(shards), workdir, "") == 0
    return workdir


def test_two_processes_killed_and_stopped_go_on_to_what_one_does(alone, shards, tmp_path):
    """One killed ends the other; the rerun goes on; a signal to one stops both at one step.

    One process then goes on with what two have saved, and ends where one alone does.
    """
    workdir = tmp_path / "run"
    first, second = 18, 36  # steps with a checkpoint: each 4 epochs of 4.5 steps
    both = start_both(shards, workdir, hold_at=first + 1)
    wait_for_a_checkpoint(both, workdir, after=0)
    both[1].kill()
    let_go(workdir, first + 1)
    start = time.monotonic()
    status, said = finish(both)
    assert status == [distributed.LOST, -signal.SIGKILL], said
    assert time.monotonic() - start < 30
    assert said[0].count("error: ") == 1 and "another process of this run was lost" in said[0]
    killed_at = max(saved_steps(workdir))
    assert 0 < killed_at < STEPS

    both = start_both(shards, workdir, hold_at=second + 1)
    wait_for_a_checkpoint(both, workdir, after=killed_at)
    both[1].send_signal(signal.SIGTERM)
    let_go(workdir, second + 1)
    status, said = finish(both)
    assert status == [143, 143], said
    assert "saved; the same command continues" in said[0] and "saved" not in said[1]
    assert "epoch 0:" not in said[0]
    assert killed_at < max(saved_steps(workdir)) < STEPS
    run = json.loads((workdir / "run.json").read_text())
    assert run["device"].startswith("2 x")

    assert train(recipe(shards), workdir, "") == 0
    one, two = losses(alone), losses(workdir)
    assert list(one) == list(two) and len(one) > 5
    assert list(two.values()) == pytest.approx(list(one.values()), abs=1e-5)


def test_an_error_of_the_first_process_ends_both(shards, tmp_path):
    """The workdir holds a run with another config, which process 0 alone looks at."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text('{"seed": 7}')
    status, said = finish(start_both(shards, workdir))
    assert status == [2, 2], said
    assert "holds a run with another config" in said[0]
    assert "error: process 0 has stopped" in said[1]


def test_several_processes_build_no_shards(monkeypatch):
    distributed.check_source("somewhere")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    distributed.check_source("")
    with pytest.raises(InputError, match="data_builder build"):
        distributed.check_source("somewhere")
