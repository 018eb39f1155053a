"""The training loop, to be read from top to bottom."""

from pathlib import Path

import jax
import ml_collections

from dtvit_jax.runs.trained_run import open_weights
from dtvit_jax.training.config_checks import check_config
from dtvit_jax.training.inputs import open_data
from dtvit_jax.training.run import start_or_resume
from dtvit_jax.training.sharding import make_mesh
from dtvit_jax.training.trainer import Trainer
from dtvit_jax.weights import hub
from dtvit_jax.weights.files import Weights


def train(config: ml_collections.ConfigDict, workdir: Path, command: str) -> int:
    """Trains what `config` describes in `workdir`, or goes on where the run there stopped.

    Returns the exit status: 0 when all steps are done, 130 or 143 when SIGINT or SIGTERM stopped
    it (everything is saved; the same command goes on). Raises InputError for bad input, before
    anything is written to `workdir`.
    """
    # Cheapest checks first: a wrong config costs no build of shards, a wrong batch no download of
    # weights, weights that do not fit no folder, and a step above the memory no compilation.
    check_config(config)
    mesh = make_mesh(config.mesh)
    data = open_data(config, mesh.size)
    trainer = Trainer(config, data, mesh, _initial_weights(config))
    run = start_or_resume(trainer, workdir, command)

    with run.open() as stopped:
        for step in range(run.first, data.steps + 1):  # steps that are done
            leaving = run.agree_to_stop(stopped)
            metrics = run.evaluate(step)
            if metrics is not None or leaving:
                run.save(step, metrics)
            if step == data.steps or leaving or run.is_past_its_best():
                break
            batch = run.next_batch()
            with run.trace(step), jax.transfer_guard("disallow"):
                run.state, logged = trainer.step(run.state, batch)
            run.log(step + 1, logged)
    return run.finish(step, leaving, stopped)


def _initial_weights(config: ml_collections.ConfigDict) -> Weights | None:
    """The weights that config.init_from names, fetched where need be; None for random ones."""
    if config.init_from == "scratch":
        return None
    return open_weights(hub.locate(config.init_from))
