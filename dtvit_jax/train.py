"""The training loop, to be read from top to bottom."""

from pathlib import Path

import jax
import ml_collections

from data_builder.files import sha256_of
from data_builder.pseudonyms import check_key_place
from dtvit_jax.runs.evaluated_weights import digest_of
from dtvit_jax.runs.trained_run import open_weights
from dtvit_jax.training.config_checks import check_config
from dtvit_jax.training.inputs import open_data
from dtvit_jax.training.run import start_or_resume
from dtvit_jax.training.sharding import make_mesh
from dtvit_jax.training.trainer import Trainer
from dtvit_jax.weights import hub
from dtvit_jax.weights.files import Weights


def train(config: ml_collections.ConfigDict, workdir: Path, command: str) -> int:
    """Trains what `config` describes in `workdir`, or continues the run that is there.

    Returns the exit status: 0 when all steps are done, 130 or 143 when SIGINT or SIGTERM stopped
    it (everything is saved; the same command continues). Raises InputError for bad input, before
    anything is written to `workdir`; later for a full disk, or a loss that is not finite.
    """
    # Cheapest checks first: the config, and whether its weights can be had and read, before shards
    # are built, the batch before weights are downloaded, memory before anything is compiled, the
    # weights' fit before the folder is made.
    check_config(config)
    if config.data.source:
        check_key_place(config.data.key or None, {"--workdir": workdir})
    if config.init_from != "scratch":
        hub.check(config.init_from)
    mesh = make_mesh(config.mesh)
    data = open_data(config, mesh.size)
    weights = _initial_weights(config)
    trainer = Trainer(_without_path(config, weights), data, mesh, weights)
    run = start_or_resume(trainer, workdir, command)

    with run.open() as signals:
        for done in range(run.steps_before, data.steps + 1):  # steps that are done
            leaving = run.agree_to_stop(signals)
            metrics = run.validate(done)
            if metrics is not None or leaving:
                run.save(done, metrics)
            if done == data.steps or leaving or run.is_past_its_best():
                break
            batch = run.next_batch()
            # An implicit copy between host and device would make each step wait: an error here.
            with run.trace(done), jax.transfer_guard("disallow"):
                run.state, logged = trainer.step(run.state, batch)
            run.log(done + 1, logged)
    return run.finish(done, leaving, signals)


def _initial_weights(config: ml_collections.ConfigDict) -> Weights | None:
    """The weights that config.init_from names, downloaded where need be; None for random ones.

    A continued run needs them too: they set the model's options (`load.model_options`).
    """
    if config.init_from == "scratch":
        return None
    return open_weights(hub.locate(config.init_from))


def _without_path(
    config: ml_collections.ConfigDict, weights: Weights | None
) -> ml_collections.ConfigDict:
    """The config with a digest in init_from instead of a path, for all that the run writes.

    'sha256:' and that of a file, or 'weights:' and the digest by which a run's answers name its
    model. Other values, and the config, stay as they are.
    """
    if weights is None or hub.is_published(config.init_from):
        return config
    named = config.copy_and_resolve_references()
    if weights.path.is_dir():
        named.init_from = f"weights:{digest_of(weights.arrays)}"
    else:
        named.init_from = f"sha256:{sha256_of(weights.path)}"
    return named
