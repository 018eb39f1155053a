import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dtvit_jax.models import create_encoder


def tiny(**options):
    """A nano ViT at 32 pixels whose every parameter is random (so that each one matters)."""

    def make():
        return create_encoder("vit_nano8", key=jax.random.key(0), image_size=32, **options)

    graph, shapes = nnx.split(nnx.eval_shape(make))
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    leaves = [jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32) for x in leaves]
    return nnx.merge(graph, jax.tree.unflatten(tree, leaves))


def pictures(channels=3, side=32, batch=2):
    images = np.random.default_rng(1).normal(size=(batch, side, side, channels))
    return jnp.asarray(images, jnp.float32)
