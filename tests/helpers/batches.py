import jax.numpy as jnp
import numpy as np

from dtvit_jax.data.augment import IDENTITY
from dtvit_jax.models.variables import split_model
from dtvit_jax.training.network import make_model
from dtvit_jax.training.setup import make_setup
from dtvit_jax.training.steps import TrainState


def batch_of(n, seed=0):
    rng = np.random.default_rng(seed)
    hemorrhage = rng.integers(0, 2, n).astype(np.int32)
    hemorrhage[:2] = 0, 1
    location = np.where(hemorrhage, rng.integers(0, 3, n), -1).astype(np.int32)
    return {
        "image": rng.integers(0, 255, (n, 36, 36)).astype(np.uint8),
        "hemorrhage": hemorrhage,
        "location": location,
        "augmentation": np.repeat(IDENTITY[None], n, 0),
    }


def fresh(config):
    setup = make_setup(config, steps=10)
    _, params, stats = split_model(make_model(config))
    state = TrainState(jnp.zeros((), jnp.int32), params, stats, setup.optimizer.init(params))
    return setup, state
