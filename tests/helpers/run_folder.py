"""A run's folder as training leaves it, without the training: random weights."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dtvit_jax.training import record
from dtvit_jax.training.checkpoint import Checkpoints
from dtvit_jax.training.setup import abstract_state, make_setup
from tests.helpers import tiny


def save_run(workdir: Path, model: dict[str, Any]) -> tuple[Any, Any]:
    """Writes a run of `model` (config.model); returns its best step's parameters and statistics.

    A later step, which is not the best, holds zeros.
    """
    config = tiny.get_config()
    config.model = model
    record.claim_workdir(workdir, config)
    setup = make_setup(config, steps=1)
    abstract = abstract_state(setup)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract)
    params, stats = random_weights(abstract)
    checkpoints = Checkpoints(workdir, config.best)
    checkpoints.save(3, zeros._replace(params=params, stats=stats), {}, {"loss": 1.0})
    checkpoints.save(4, zeros, {}, {"loss": 2.0})
    checkpoints.close()
    return params, stats


def random_weights(abstract: Any) -> tuple[Any, Any]:
    """The same parameters and statistics at every call."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.05, x.shape), jnp.float32), abstract.params
    )
    stats = jax.tree.map(
        lambda x: jnp.asarray(1 + rng.random(x.shape), jnp.float32), abstract.stats
    )
    return params, stats
