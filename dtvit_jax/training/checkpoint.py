"""Saves and restores a run: its state, the data's position and the history, as one atomic whole.

Orbax writes the files; damaged.py says what is done where they are damaged.
"""

import contextlib
import json
import sys
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
from dtvit_jax.training import damaged, distributed
from dtvit_jax.training.damaged import step_folders
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


class RunProgress(TypedDict):
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
    return bool(step_folders(workdir))


def saved_config(workdir: Path) -> dict[str, Any] | None:
    """The config in the last readable checkpoint of `workdir`; None where there is none."""
    for folder in reversed(step_folders(workdir)):
        try:
            return json.loads(_progress_file(folder).read_text())["config"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


_MOVE = ": move it away, and the best left is taken"


class Checkpoints:
    """The checkpoints in `workdir`: the last ones, and the best by one validation figure.

    Args:
      workdir: the run's folder; checkpoints are in workdir/checkpoints.
      best: name of the validation figure (`validation.names`).
      keep: how many of the last to keep.
      read_only: write and remove nothing; another process may be training there.

    A checkpoint whose validation figures are damaged is reported and moved to workdir/damaged.
    Raises InputError where none is left then, and, with read_only, where one is damaged.
    """

    def __init__(self, workdir: Path, best: str, keep: int = 1, read_only: bool = False) -> None:
        if read_only:
            damaged.refuse_figures(workdir, best)
        else:
            distributed.primary_does(lambda: damaged.set_aside_figures(workdir, best))
            _forget_path(workdir)
        sign = -1.0 if lower_is_better(best) else 1.0

        def score(metrics: dict[str, float]) -> float:
            return sign * metrics[best]

        latest = checkpoint_managers.LatestN(n=keep)
        best_one = checkpoint_managers.BestN(
            get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=score,
            best_mode="max",
            preservation_policy=checkpoint_managers.AnyPreservationPolicy([latest, best_one]),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        # Trained float32 weights hardly compress; trying takes a core for as long as a save lasts.
        arrays = ocp.PyTreeCheckpointHandler(use_compression=False)
        self._workdir, self._read_only = workdir, read_only
        self._manager = ocp.CheckpointManager(
            (workdir / "checkpoints").absolute(),
            options=options,
            item_handlers={"state": arrays, "progress": ocp.JsonCheckpointHandler()},
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
        self, step: int, state: TrainState, progress: RunProgress, metrics: dict[str, float] | None
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
        with_checksums = {**progress, "checksums": damaged.checksums(fields)}
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

    def restore_latest(self, abstract: TrainState) -> tuple[TrainState, RunProgress] | None:
        """State and progress of the last whole checkpoint; None where there is none.

        A damaged one is reported and moved to workdir/damaged, and the one before is taken.

        Raises:
          InputError: a checkpoint is of another model or optimizer, or all are damaged.
        """
        lost = 0
        while (step := self.latest) is not None:
            try:
                return self.restore(step, abstract)
            except damaged.Damaged as error:
                lost += 1
                place = self._set_aside(step)
                print(f"{error}: moved to {place}, going on from the one before", file=sys.stderr)
        if lost:
            raise damaged.none_left(self._workdir)
        return None

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, RunProgress]:
        """State and progress of `step`; `abstract` holds the state's shapes and shardings.

        Raises:
          Damaged: it can't be read, or its checksums differ from those that were saved.
          InputError: it is whole, and of another model or optimizer.
        """
        wanted = abstract._asdict()
        with damaged.saying(self._workdir, step):
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
        with damaged.saying(self._workdir, step):
            content = self._manager.restore(step, args=items)
            damaged.check(content["state"], content["progress"]["checksums"])
        return type(abstract)(**content["state"]), content["progress"]

    def restore_model(self, step: int, abstract: TrainState | None = None) -> tuple[Tree, Tree]:
        """Parameters and statistics of `step`, averaged where the run averages them.

        They are NumPy arrays, or placed as `abstract` (with shardings) says. The optimizer's state
        is not read. Raises Damaged.
        """
        checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        with damaged.saying(self._workdir, step, _MOVE):
            tree = self._tree(step) if abstract is None else abstract._asdict()
            wanted = {name: tree[name] for name in MODEL}
            if abstract is None:
                how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            else:
                how = ocp.checkpoint_utils.construct_restore_args(wanted)
            arguments = ocp.args.PyTreeRestore(wanted, how, partial_restore=True)
            state = checkpointer.restore(self._folder(step) / "state", args=arguments)
            progress = json.loads(_progress_file(self._folder(step)).read_text())
            damaged.check(state, progress["checksums"])
        both = overlay({name: state[name] for name in ("params", "stats")}, state["ema"])
        return both["params"], both["stats"]

    def model_checksum(self, step: int) -> str:
        """The checksums of the model in checkpoint `step`, 24 hexadecimal digits.

        They tell it from another checkpoint of the same step, and cost no look at the arrays.
        Raises Damaged.
        """
        with damaged.saying(self._workdir, step, _MOVE):
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
            place = damaged.move_aside(self._workdir, self._folder(step))
        distributed.wait_for_all("damaged checkpoint")
        self._manager.reload()
        return place


_COMMITTED = "Checkpoint commit was successful"


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


def _progress_file(folder: Path) -> Path:
    return folder / "progress" / "metadata"


_copy = jax.jit(jnp.copy)


def _shapes(tree: Any) -> set[tuple[str, tuple]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {(_name(path), tuple(leaf.shape)) for path, leaf in flat}


def _name(path: tuple) -> str:
    parts = (getattr(key, "key", getattr(key, "name", getattr(key, "idx", ""))) for key in path)
    return ".".join(map(str, parts))
