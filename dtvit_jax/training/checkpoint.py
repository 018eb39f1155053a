"""Saves and restores a run: its state, the data's position and the history, as one atomic whole.

Orbax writes the files. It does not notice flipped bits, so each checkpoint holds checksums of its
state, computed on the devices that hold the arrays.
"""

import contextlib
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import psutil
from orbax.checkpoint import checkpoint_managers

from data_builder.errors import InputError
from data_builder.files import write_whole
from dtvit_jax.models.variables import Tree, overlay
from dtvit_jax.training import distributed
from dtvit_jax.training.disk_space import check_room, saying_disk_full
from dtvit_jax.training.memory import tree_bytes
from dtvit_jax.training.record import HistoryRow
from dtvit_jax.training.steps import TrainState
from dtvit_jax.training.validation import lower_is_better

MODEL = ("params", "stats", "ema")
"""The fields of a state that make the model; the others are the optimizer's."""

ROOM_FOR_A_COPY = 1.5
"""Free memory, in sizes of the state, above which a CPU saves a copy in the background."""

BESIDES = 2**20
"""Bytes that a checkpoint may take beyond its arrays and a hundredth of them.

A tiny model's takes 0.2 to 0.4 MB more than its arrays, ViT-L's 0.4%. The disk is checked before a
save: where it fills up during one, Orbax's threads print tracebacks of their own.
"""


class Progress(TypedDict):
    """What a checkpoint holds beside the state."""

    batches: Any  # the position of the data's iterator, after the last batch that a step took
    history: list[HistoryRow]
    sums: dict[str, float]  # of the steps since the last validation; empty at the start
    seconds: float  # of training so far
    waited: float  # of these, seconds in which the devices waited for data
    config: dict[str, Any]
    checksums: NotRequired[dict[str, int]]  # of each field of the state; `save` adds them


def has_checkpoint(workdir: Path) -> bool:
    """Whether the run in `workdir` has a checkpoint."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


def saved_config(workdir: Path) -> dict[str, Any] | None:
    """The config in the last readable checkpoint of `workdir`; None where there is none."""
    steps = [p for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
    for folder in sorted(steps, key=lambda path: -int(path.name)):
        try:
            return json.loads(_progress_file(folder).read_text())["config"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


class Checkpoints:
    """The checkpoints in `workdir`: the last ones, and the best by one validation figure.

    Args:
      workdir: the run's folder; checkpoints are in workdir/checkpoints.
      best: name of the validation figure (`validation.names`).
      keep: how many of the last to keep.
      read_only: write and remove nothing; another process may be training there.

    Orbax reads the validation figures of all checkpoints here. One whose figures are damaged is
    reported and moved to workdir/damaged. Raises InputError where none is left then, and, with
    read_only, where one is damaged.
    """

    def __init__(self, workdir: Path, best: str, keep: int = 1, read_only: bool = False) -> None:
        if read_only:
            _refuse_damaged_metrics(workdir, best)
        else:
            distributed.primary_does(lambda: _set_aside_damaged_metrics(workdir, best))
            _forget_path(workdir)
        sign = -1.0 if lower_is_better(best) else 1.0

        def score(metrics: dict[str, float]) -> float:
            return sign * metrics[best]

        policies = checkpoint_managers
        options = ocp.CheckpointManagerOptions(
            best_fn=score,
            best_mode="max",
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(n=keep),
                    policies.BestN(
                        get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False
                    ),
                ]
            ),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        self._workdir, self._read_only = workdir, read_only
        self._manager = ocp.CheckpointManager(
            (workdir / "checkpoints").absolute(),
            options=options,
            item_handlers={"state": _arrays(), "progress": ocp.JsonCheckpointHandler()},
        )

    @property
    def latest(self) -> int | None:
        """The last step saved, if any."""
        return self._manager.latest_step()

    @property
    def best(self) -> int:
        """The step with the best validation figure. Raises InputError where none was validated."""
        step = self._manager.best_step()
        if step is None:
            raise InputError("the run has no validated checkpoint yet: let it train further")
        return step

    def save(
        self, step: int, state: TrainState, progress: Progress, metrics: dict[str, float] | None
    ) -> None:
        """Saves `state` as it is now, in the background.

        The next step reuses the state's memory. On an accelerator Orbax copies it to the host
        before it returns. On a CPU it copies nothing, so a copy is made here; where memory is too
        short for one, this waits until the files are written. Raises InputError where the disk is
        full, for this save or for the one before.
        """
        size = tree_bytes(state)
        with saying_disk_full(self._workdir):
            self._manager.wait_until_finished()  # of the save before
            _forget_path(self._workdir)
        check_room(self._workdir, size + size // 100 + BESIDES)
        fields = state._asdict()
        with_checksums = {**progress, "checksums": checksums(fields)}
        on_cpu = jax.default_backend() == "cpu"
        room = psutil.virtual_memory().available > ROOM_FOR_A_COPY * size
        if on_cpu and room:
            fields = jax.tree.map(_copy, fields)
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(fields), progress=ocp.args.JsonSave(with_checksums)
        )
        with saying_disk_full(self._workdir):
            self._manager.save(step, args=items, metrics=metrics, force=True)
            if on_cpu and not room:
                self._manager.wait_until_finished()
                _forget_path(self._workdir)

    def restore_latest(self, abstract: TrainState) -> tuple[TrainState, Progress] | None:
        """State and progress of the last whole checkpoint; None where there is none.

        A damaged one is reported and moved to workdir/damaged, and the one before is taken.

        Raises:
          InputError: a checkpoint is of another model or optimizer, or all are damaged.
        """
        damaged = 0
        while (step := self.latest) is not None:
            try:
                return self.restore(step, abstract)
            except Damaged as error:
                damaged += 1
                place = self._set_aside(step)
                print(f"{error}: moved to {place}, going on from the one before", file=sys.stderr)
        if damaged:
            raise _none_left(self._workdir)
        return None

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, Progress]:
        """State and progress of `step`; `abstract` holds the state's shapes and shardings.

        Raises:
          Damaged: it can't be read, or its checksums differ from those that were saved.
          InputError: it is whole, and of another model or optimizer.
        """
        wanted = abstract._asdict()
        with self._saying_damaged(step):
            saved = _shapes(self._tree(step))
        if saved != _shapes(wanted):
            names = sorted(dict(saved ^ _shapes(wanted)))
            raise InputError(
                f"checkpoint {step} in {self._workdir} does not fit the config ({names[0]} and "
                f"{len(names) - 1} more differ): give the config that it was made with"
            )
        how = ocp.checkpoint_utils.construct_restore_args(wanted)
        items = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(wanted, how), progress=ocp.args.JsonRestore()
        )
        with self._saying_damaged(step):
            content = self._manager.restore(step, args=items)
            check(content["state"], content["progress"]["checksums"])
        return type(abstract)(**content["state"]), content["progress"]

    def restore_model(self, step: int, abstract: TrainState | None = None) -> tuple[Tree, Tree]:
        """Parameters and statistics of `step`, averaged where the run averages them.

        They are NumPy arrays, or placed as `abstract` (with shardings) says. The optimizer's state
        is not read. Raises Damaged.
        """
        checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        with self._saying_damaged(step, ": move it away, and the best of those left is taken"):
            tree = self._tree(step) if abstract is None else abstract._asdict()
            wanted = {name: tree[name] for name in MODEL}
            if abstract is None:
                how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            else:
                how = ocp.checkpoint_utils.construct_restore_args(wanted)
            arguments = ocp.args.PyTreeRestore(wanted, how, partial_restore=True)
            state = checkpointer.restore(self._folder(step) / "state", args=arguments)
            progress = json.loads(_progress_file(self._folder(step)).read_text())
            check(state, progress["checksums"])
        both = overlay({name: state[name] for name in ("params", "stats")}, state["ema"])
        return both["params"], both["stats"]

    def model_checksum(self, step: int) -> str:
        """The checksums of the model in checkpoint `step`, 24 hexadecimal digits.

        They tell it from another checkpoint of the same step, and cost no look at the arrays.
        Raises Damaged.
        """
        with self._saying_damaged(step):
            saved = json.loads(_progress_file(self._folder(step)).read_text())["checksums"]
            return "".join(f"{saved[name]:08x}" for name in MODEL)

    def close(self) -> None:
        """Waits until all is written. Raises InputError where the disk is full."""
        with saying_disk_full(self._workdir):
            self._manager.close()
            if not self._read_only:
                _forget_path(self._workdir)

    def _folder(self, step: int) -> Path:
        return Path(self._manager.directory) / str(step)

    def _tree(self, step: int) -> Any:
        """Shapes of the saved state, from the checkpoint's metadata."""
        checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        return checkpointer.metadata(self._folder(step) / "state").item_metadata.tree

    def _set_aside(self, step: int) -> Path:
        place = self._workdir / "damaged"
        if distributed.is_primary():
            place = _move_aside(self._workdir, self._folder(step))
        distributed.wait_for_all("damaged checkpoint")
        self._manager.reload()
        return place

    @contextmanager
    def _saying_damaged(self, step: int, mend: str = "") -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax raises a bare Exception where an array can't be read
            folder = self._folder(step)
            raise Damaged(f"{folder}: a damaged checkpoint ({_why(error)}){mend}") from error


class Damaged(InputError):
    """A checkpoint whose content is not what was saved."""


def _damaged_metrics(workdir: Path, best: str) -> list[tuple[Path, str]]:
    """Each checkpoint whose validation figures can't be read, oldest first, and a description."""
    damaged = []
    for folder in _step_folders(workdir):
        path = folder / "metrics" / "metrics"
        try:
            if not math.isfinite(json.loads(path.read_text())[best]):
                raise ValueError(f"its {best} is not finite")
        except FileNotFoundError:  # a checkpoint between two validations
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            damaged.append((folder, f"{path} is damaged ({_why(error)})"))
    return damaged


def _refuse_damaged_metrics(workdir: Path, best: str) -> None:
    for _, description in _damaged_metrics(workdir, best):
        raise Damaged(
            f"{description}: the command that trained the run moves this checkpoint aside and goes "
            "on from the one before"
        )


def _set_aside_damaged_metrics(workdir: Path, best: str) -> None:
    damaged = _damaged_metrics(workdir, best)
    for folder, description in damaged:
        place = _move_aside(workdir, folder)
        print(f"{description}: the checkpoint is moved to {place}", file=sys.stderr)
    if damaged and not _step_folders(workdir):
        raise _none_left(workdir)


def _step_folders(workdir: Path) -> list[Path]:
    """The folders of checkpoints, oldest first."""
    folders = [path for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]
    return sorted(folders, key=lambda path: int(path.name))


def _move_aside(workdir: Path, folder: Path) -> Path:
    place = workdir / "damaged"
    place.mkdir(exist_ok=True)
    number = sum(1 for _ in place.iterdir())
    return folder.rename(place / f"{folder.name}_{number}")


def _forget_path(workdir: Path) -> None:
    """Removes the run's path from the files by which Orbax marks a checkpoint as whole.

    Orbax reads their names only.
    """
    if not distributed.is_primary():
        return
    for mark in workdir.glob("*/[0-9]*/**/commit_success.txt"):
        with contextlib.suppress(FileNotFoundError):  # the checkpoint was just removed
            if mark.stat().st_size > len(_COMMITTED):
                write_whole(mark, _COMMITTED)


def _none_left(workdir: Path) -> InputError:
    return InputError(
        f"no whole checkpoint is left in {workdir} (the damaged are in {workdir / 'damaged'}): "
        "train again into a new --workdir"
    )


def _progress_file(folder: Path) -> Path:
    return folder / "progress" / "metadata"


_COMMITTED = "Checkpoint commit was successful"


def _arrays() -> ocp.PyTreeCheckpointHandler:
    # Trained float32 weights hardly compress; trying takes a core for as long as a save lasts.
    return ocp.PyTreeCheckpointHandler(use_compression=False)


_copy = jax.jit(jnp.copy)


def _shapes(tree: Any) -> set[tuple[str, tuple]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {(_name(path), tuple(leaf.shape)) for path, leaf in flat}


def _name(path: tuple) -> str:
    parts = (getattr(key, "key", getattr(key, "name", getattr(key, "idx", ""))) for key in path)
    return ".".join(map(str, parts))


def _why(error: Exception) -> str:
    return " ".join(str(error).split())[:80] or type(error).__name__


def checksums(fields: dict[str, Any]) -> dict[str, int]:
    """A sum of each field's bits, computed where they are; any flipped bit changes it."""
    parts = jax.device_get(jax.tree.map(_bits, fields))
    return {name: sum(map(int, jax.tree.leaves(part))) % 2**32 for name, part in parts.items()}


def check(fields: dict[str, Any], saved: dict[str, int]) -> None:
    """Raises ValueError where a field's checksum differs from the saved one."""
    for name, value in checksums(fields).items():
        if value != saved[name]:
            raise ValueError(f"the checksum of its {name} differs")


def _bits(x: Any) -> Any:
    if isinstance(x, np.ndarray):  # on the host: nothing to compile or to copy
        bits = np.ascontiguousarray(x).reshape(-1).view(f"uint{8 * x.itemsize}")
        return bits.sum(dtype=np.uint32)
    return _bits_on_device(x)


@jax.jit
def _bits_on_device(x: jax.Array) -> jax.Array:
    kind = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(x, kind).sum(dtype=jnp.uint32)
