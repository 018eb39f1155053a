"""Joins several processes into one run: how they meet, load their rows and stop together."""

import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data_builder.errors import InputError, first_line

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""Environment variables of any launcher: HOST:PORT of process 0, their number, and its own."""

PATIENCE = "DTVIT_LOST_AFTER_SECONDS"
"""Environment variable: seconds that a process may be silent before the others give up."""

LOST = 75
"""Exit status (EX_TEMPFAIL of sysexits.h) where another process was lost: start all again."""

_SIGNS_OF_A_LOST_PEER = (
    "gloo",
    "nccl",
    "connection closed",
    "connection reset",
    "coordination service",
    "heartbeat",
    "unavailable",
    "deadline_exceeded",
    "barrier",
)


def launch(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments of jax.distributed.initialize; None where this process is the only one.

    In this order: EXPLICIT; `srun`; `mpirun` of Open MPI; a Kubernetes indexed job; a TPU. Raises
    InputError for variables that do not fit together.
    """
    given = {name: environment[name] for name in EXPLICIT if environment.get(name)}
    if EXPLICIT[1] in given or EXPLICIT[2] in given:
        return _explicit(given)
    if int(environment.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_NODELIST" in environment:
        return {"cluster_detection_method": "slurm"}
    if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        if "OMPI_MCA_orte_hnp_uri" in environment:
            return {"cluster_detection_method": "ompi"}
        if EXPLICIT[0] not in given:
            raise InputError(
                f"{EXPLICIT[0]} is not set: Open MPI 5 does not say where process 0 is: "
                "give mpirun -x JAX_COORDINATOR_ADDRESS=HOST:PORT"
            )
        return {
            "coordinator_address": given[EXPLICIT[0]],
            "num_processes": int(environment["OMPI_COMM_WORLD_SIZE"]),
            "process_id": int(environment["OMPI_COMM_WORLD_RANK"]),
            "local_device_ids": [int(environment["OMPI_COMM_WORLD_LOCAL_RANK"])],
        }
    on_tpu = "TPU_WORKER_HOSTNAMES" in environment or _has_tpu()
    if on_tpu and environment.get("JAX_PLATFORMS", "tpu").startswith("tpu"):
        return {}
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        if importlib.util.find_spec("kubernetes") is None:
            raise InputError(
                f"a Kubernetes indexed job: set {', '.join(EXPLICIT)} (docs/training_sharding.md "
                "has an example), or install the package kubernetes"
            )
        return {"cluster_detection_method": None}  # JAX finds it by itself
    if given:
        raise InputError(f"{EXPLICIT[0]} is set and {EXPLICIT[1]}, {EXPLICIT[2]} are not")
    return None


def _explicit(given: dict[str, str]) -> dict[str, Any]:
    missing = [name for name in EXPLICIT if name not in given]
    if missing:
        raise InputError(f"{', '.join(given)} set and {', '.join(missing)} not: set all three")
    address, count, which = (given[name] for name in EXPLICIT)
    if not (count.isdigit() and which.isdigit() and int(which) < int(count)):
        raise InputError(
            f"{EXPLICIT[1]}={count} and {EXPLICIT[2]}={which}: give numbers, the second from 0 to "
            "one below the first"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"{EXPLICIT[0]}={address}: give HOST:PORT of process 0")
    return {
        "coordinator_address": address,
        "num_processes": int(count),
        "process_id": int(which),
        "cluster_detection_method": "deactivate",
    }


def _has_tpu() -> bool:
    devices = Path("/dev/accel0").exists() or any(Path("/dev").glob("vfio/[0-9]*"))
    return devices and importlib.util.find_spec("libtpu") is not None


def connect(environment: Mapping[str, str] = os.environ) -> None:
    """Connects to the other processes of the run, if there are any, before JAX is used.

    Raises InputError where they can't be reached.
    """
    arguments = launch(environment)
    if arguments is None:
        return
    patience = environment.get(PATIENCE, "100")
    if not patience.isdigit() or int(patience) < 1:
        raise InputError(f"{PATIENCE}={patience}: give whole seconds, 1 or more")
    try:
        jax.distributed.initialize(
            **arguments,
            heartbeat_timeout_seconds=int(patience),
            shutdown_timeout_seconds=int(patience),
        )
    except ValueError:
        if arguments:
            raise
        return  # a TPU that is no pod
    except RuntimeError as error:
        raise InputError(f"the processes of the run did not meet: {first_line(error)}") from error


def check_source(source: str) -> None:
    """Raises InputError where several processes would each build the shards."""
    if source and jax.process_count() > 1:
        raise InputError(
            "config.data.source builds shards, and this run has several processes: build them once "
            "with python -m data_builder build, and give --config.data.dir alone"
        )


def is_primary() -> bool:
    """Whether this process writes logs, run.json, history and the terminal's lines."""
    return jax.process_index() == 0


def wait_for_all(point: str) -> None:
    """Returns when every process has reached `point`, a name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(point)


def primary_does(action: Callable[[], None]) -> None:
    """Runs `action` in process 0 while the others wait; its InputError is raised in all of them."""
    failed: InputError | None = None
    if is_primary():
        try:
            action()
        except InputError as error:
            failed = error
    if jax.process_count() > 1:
        done = multihost_utils.broadcast_one_to_all(np.int32(failed is None))
        if not done and failed is None:
            raise InputError("process 0 has stopped: see its message")
    if failed is not None:
        raise failed


def local_rows(placed: NamedSharding, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this process's devices hold, ascending."""
    rows: set[int] = set()
    for index in placed.addressable_devices_indices_map((batch_size,)).values():
        assert index is not None  # a batch is never left off a device
        rows |= set(range(batch_size)[index[0]])
    return np.array(sorted(rows))


def to_devices(batch: dict[str, Any], placed: NamedSharding) -> dict[str, Any]:
    """Puts a global batch on the devices; each process passes its `local_rows`."""
    if jax.process_count() == 1:
        return jax.device_put(batch, placed)
    with jax.transfer_guard("allow"):  # explicit, as device_put is, but the guard does not know it
        make = functools.partial(jax.make_array_from_process_local_data, placed)
        return jax.tree.map(make, batch)


class Agreement:
    """Lets all processes stop at the same step once any of them wants to.

    Each asks at every step. With several processes the answer is that to the call before, so that
    no step waits for the one that the devices compute.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._placed = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._any = jax.jit(
            lambda flags: flags.any(), out_shardings=NamedSharding(mesh, PartitionSpec())
        )
        self._rows = len(local_rows(self._placed, mesh.size))
        self._asked: jax.Array | None = None

    def reached(self, wanted: bool) -> bool:
        """Whether a process wanted to stop; called in every process at the same steps."""
        if jax.process_count() == 1:
            return wanted
        before = self._asked
        flags = np.full(self._rows, wanted)
        self._asked = self._any(jax.make_array_from_process_local_data(self._placed, flags))
        return before is not None and bool(jax.device_get(before))


@contextmanager
def ending_with_the_others() -> Iterator[None]:
    """Ends this process at once, with one line and status LOST, where another process was lost.

    Python's normal exit would wait for the lost one.
    """
    try:
        yield
    except InputError:
        raise
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        text = str(error).lower()
        if jax.process_count() == 1 or not any(sign in text for sign in _SIGNS_OF_A_LOST_PEER):
            raise
        print(
            f"error: process {jax.process_index()} of {jax.process_count()}: another process of "
            "this run was lost; what was saved is whole: start all of them again with the same "
            f"command ({first_line(error)[:200]})",
            file=sys.stderr,
            flush=True,
        )
        os._exit(LOST)
