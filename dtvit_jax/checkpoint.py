"""Checkpoints of a run: state, place in the data and history, as one atomic whole (Orbax)."""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from data_builder.errors import InputError

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every step it takes


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run in `workdir` has saved anything yet."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


class Checkpoints:
    """The checkpoints in `workdir`: the latest, and the best by one validation figure.

    Args:
      workdir: the run's folder; checkpoints lie in workdir/checkpoints.
      best: name of the validation figure; the least 'loss...' or the greatest 'accuracy...' wins.
      read_only: write and clean up nothing; another process may be training there.
    """

    def __init__(self, workdir: Path, best: str, read_only: bool = False) -> None:
        sign = -1.0 if best.startswith("loss") else 1.0

        def score(metrics: dict[str, float]) -> float:
            return sign * metrics[best]

        policies = checkpoint_managers
        options = ocp.CheckpointManagerOptions(
            best_fn=score,
            best_mode="max",
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(n=1),
                    policies.BestN(
                        get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False
                    ),
                ]
            ),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(
            (workdir / "checkpoints").absolute(),
            options=options,
            item_names=("state", "progress"),
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
        self, step: int, state: Any, progress: dict[str, Any], metrics: dict[str, float] | None
    ) -> None:
        """Saves in the background; on a CPU at once, where the next step reuses the memory."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state._asdict()), progress=ocp.args.JsonSave(progress)
        )
        self._manager.save(step, args=items, metrics=metrics, force=True)
        if jax.default_backend() == "cpu":
            self._manager.wait_until_finished()

    def restore(self, step: int, abstract: Any) -> tuple[Any, dict[str, Any]]:
        """State (as `abstract`, which carries shardings) and progress of `step`."""
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract._asdict()), progress=ocp.args.JsonRestore()
        )
        found = self._manager.restore(step, args=items)
        return type(abstract)(**found["state"]), found["progress"]

    def restore_model(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters and statistics of `step` as NumPy arrays; the optimiser's state is not read.

        Raises InputError where the checkpoint is damaged.
        """
        path = Path(self._manager.directory) / str(step) / "state"
        checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        try:
            tree = checkpointer.metadata(path).item_metadata.tree
            wanted = {name: tree[name] for name in ("params", "stats")}
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            arguments = ocp.args.PyTreeRestore(wanted, as_numpy, partial_restore=True)
            found = checkpointer.restore(path, args=arguments)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise InputError(
                f"{path.parent}: a damaged checkpoint ({type(error).__name__}): train again into "
                "a new workdir"
            ) from error
        return found["params"], found["stats"]

    def close(self) -> None:
        """Waits for what is still being written."""
        self._manager.close()
