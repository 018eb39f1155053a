"""The ViT's layers, and the whole of it, against the plain form of the same mathematics.

The plain forms are jax.nn's and nnx's own, differentiated by JAX.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dtvit_jax.models import layers, layers_cpu
from dtvit_jax.models.vit import patchify
from tests.helpers.tiny_vit import pictures, tiny


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def plain_attention(q, k, v, mask):
    swap = functools.partial(jnp.swapaxes, axis1=1, axis2=2)
    where = None if mask is None else mask[:, None, None, :]
    return swap(jax.nn.dot_product_attention(swap(q), swap(k), swap(v), mask=where, scale=1.0))


def norms(x, scale, bias):
    module = nnx.LayerNorm(8, epsilon=1e-6, use_fast_variance=False, rngs=nnx.Rngs(0))
    module.scale[...], module.bias[...] = scale, bias
    return module(x)


Q, K, V = draw(2, 3, 4, 8), draw(2, 3, 5, 8, seed=1), draw(2, 3, 5, 8, seed=2)
MASK = jnp.arange(5) < jnp.array([[5], [3]])
PAIRS = {
    "linear wider": (
        layers_cpu.linear,
        lambda x, w, b: x @ w + b,
        (Q, draw(8, 12), draw(12)),
    ),
    "linear narrower": (
        layers_cpu.linear,
        lambda x, w, b: x @ w + b,
        (Q, draw(8, 3), draw(3)),
    ),
    "norm": (
        lambda x, s, b: layers_cpu.layer_norm(x, s, b, 1e-6),
        norms,
        (Q + 3, draw(8), draw(8, seed=1)),
    ),
    "gelu": (
        layers.exact_gelu,
        functools.partial(jax.nn.gelu, approximate=False),
        (4 * Q,),
    ),
    "attention": (
        lambda q, k, v: layers_cpu.softmax_attention(q, k, v, None),
        lambda q, k, v: plain_attention(q, k, v, None),
        (Q, K, V),
    ),
    "masked attention": (
        lambda q, k, v: layers_cpu.softmax_attention(q, k, v, MASK),
        lambda q, k, v: plain_attention(q, k, v, MASK),
        (Q, K, V),
    ),
    "settle": (layers_cpu.settle, lambda x: x, (Q,)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_the_plain_forms(name):
    ours, plain, arguments = PAIRS[name]
    weights = draw(*jax.eval_shape(plain, *arguments).shape, seed=9)
    every = tuple(range(len(arguments)))

    @functools.partial(jax.jit, static_argnums=0)
    def both(f, *arguments):
        return jax.value_and_grad(lambda *a: (f(*a) * weights).sum(), every)(*arguments)

    got, want = both(ours, *arguments), both(plain, *arguments)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def plain_vit(p, images, heads, pooling):
    """The ViT in jax.nn's functions alone."""

    def linear(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    def norm(x, layer):
        return jax.nn.standardize(x, epsilon=1e-6) * layer["scale"] + layer["bias"]

    x = linear(patchify(images, 8), p["patch_embedding"])
    x = jnp.concatenate([jnp.repeat(p["class_token"], len(x), 0), x], 1) + p["position_embedding"]
    for block in p["blocks"].values():
        qkv = linear(norm(x, block["norm1"]), block["attention"]["qkv"])
        q, k, v = jnp.moveaxis(qkv.reshape(*x.shape[:2], 3, heads, -1), 2, 0)
        y = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        x = x + linear(y, block["attention"]["out"])
        y = jax.nn.gelu(linear(norm(x, block["norm2"]), block["mlp"]["hidden"]), approximate=False)
        x = x + linear(y, block["mlp"]["out"])
    x = norm(x, p["norm"])
    return x[:, 0] if pooling == "cls" else x[:, 1:].mean(1)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_vits_features_and_gradients_are_the_plain_ones(pooling):
    graph, params = nnx.split(tiny(pooling=pooling))
    params = nnx.to_pure_dict(params)
    images, weights = pictures(), draw(2, 64)

    def ours(params, images):
        return nnx.merge(graph, nnx.State(params))(images)

    def plain(params, images):
        return plain_vit(params, images, 2, pooling)

    def run(f):
        def loss(params, images):
            features = f(params, images)
            return (features * weights).sum(), features

        (_, features), gradient = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
            params, images
        )
        return features, gradient

    (features, gradient), (want, want_gradient) = run(ours), run(plain)
    np.testing.assert_allclose(features, want, rtol=1e-5, atol=1e-5)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(want_gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max()) + 1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_softmax_and_statistics_are_float32(dtype):
    """Every exp, reciprocal square root and maximum of the model is taken in float32."""
    encoder = tiny(dtype=dtype)
    text = str(jax.make_jaxpr(lambda x: encoder(x))(pictures()))
    for operation in (" exp ", " rsqrt ", " reduce_max"):
        lines = [line for line in text.splitlines() if operation in line]
        assert lines and all("bf16" not in line for line in lines)
