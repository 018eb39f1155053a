"""The ViT against its equations in float64 numpy, its golden counts, and its properties."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from data_builder.errors import InputError
from dtvit_jax.models import count_parameters, create, create_encoder
from dtvit_jax.models.vit import patchify
from tests.helpers.tiny_vit import pictures, tiny

# Encoder; with a 1000-class linear head, as torchvision (B, L, H) and timm (Ti, S) publish it.
GOLDEN = {
    "vit_ti16": (5_524_416, 5_717_416),
    "vit_s16": (21_665_664, 22_050_664),
    "vit_b16": (85_798_656, 86_567_656),
    "vit_b32": (87_455_232, 88_224_232),
    "vit_l16": (303_301_632, 304_326_632),
    "vit_l32": (305_510_400, 306_535_400),
    "vit_h14": (630_764_800, 632_045_800),
}


def numpy_vit(parameters, images, patch, heads, gelu, pooling):
    """The ViT written again, in float64 and by loops over heads: the tests' reference."""

    def to64(tree):
        if isinstance(tree, dict):
            return {k: to64(v) for k, v in tree.items()}
        return np.asarray(tree, np.float64)

    p = to64(parameters)

    def linear(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    def norm(x, layer):
        mean = x.mean(-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-6) * layer["scale"] + layer["bias"]

    def activate(x):
        if gelu == "tanh":
            return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    features = []
    for image in np.asarray(images, np.float64):
        side = image.shape[0] // patch
        cells = [
            image[r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].reshape(-1)
            for r in range(side)
            for c in range(side)
        ]
        x = np.concatenate([p["class_token"][0], linear(np.stack(cells), p["patch_embedding"])])
        x = x + p["position_embedding"][0]
        width = x.shape[-1]
        for i in range(len(p["blocks"])):
            block = p["blocks"][i]
            q, k, v = np.split(linear(norm(x, block["norm1"]), block["attention"]["qkv"]), 3, -1)
            outputs = []
            for h in range(heads):
                at = slice(h * width // heads, (h + 1) * width // heads)
                weights = np.exp(q[:, at] @ k[:, at].T / math.sqrt(width // heads))
                outputs.append(weights / weights.sum(-1, keepdims=True) @ v[:, at])
            x = x + linear(np.concatenate(outputs, -1), block["attention"]["out"])
            y = activate(linear(norm(x, block["norm2"]), block["mlp"]["hidden"]))
            x = x + linear(y, block["mlp"]["out"])
        x = norm(x, p["norm"])
        features.append(x[0] if pooling == "cls" else x[1:].mean(0))
    return np.stack(features)


@nnx.jit
def answer(model, images, key=None):
    return model(images, key=key)


@nnx.jit
def encode(encoder, patches, positions=None, mask=None):
    return encoder.encode(patches, positions=positions, mask=mask)


@pytest.mark.parametrize("gelu", ["exact", "tanh"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_equals_the_equations(gelu, pooling):
    encoder = tiny(gelu=gelu, pooling=pooling)
    images = pictures()
    parameters = nnx.to_pure_dict(nnx.state(encoder, nnx.Param))
    want = numpy_vit(parameters, images, patch=8, heads=2, gelu=gelu, pooling=pooling)
    np.testing.assert_allclose(answer(encoder, images), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_counts(name):
    encoder = nnx.eval_shape(lambda: create_encoder(name, key=jax.random.key(0)))
    head = 1000 * encoder.features + 1000
    assert (count_parameters(encoder), count_parameters(encoder) + head) == GOLDEN[name]


@functools.cache
def loss_and_gradient(**options):
    graph, params = nnx.split(tiny(dropout=0.1, stochastic_depth=0.5, **options))
    images, key = pictures(), jax.random.key(3)

    def loss(params):
        return jnp.sum(nnx.merge(graph, params)(images, key=key) ** 2)

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("options", [{"remat": True}, {"remat": True, "scan": True}])
def test_remat_and_scan_change_no_number(options):
    """Features and gradients, with dropout and stochastic depth drawn from the same key."""
    (value, gradient), (plain, plain_gradient) = loss_and_gradient(**options), loss_and_gradient()
    np.testing.assert_allclose(value, plain, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(plain_gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(16)), st.sampled_from([1, 6, 16]), st.sampled_from(["cls", "mean"]))
def test_masked_patches_change_nothing(order, kept, pooling):
    """A subset of patches in any order, padded with noise and masked, gives the subset's answer."""
    encoder = tiny(pooling=pooling)
    patches = patchify(pictures(), 8)
    positions = jnp.broadcast_to(jnp.asarray(order[:kept]), (2, kept))
    some = jnp.take_along_axis(patches, positions[..., None], axis=1)
    want = encode(encoder, some, positions)
    padding = 17 - kept
    padded = jnp.pad(some, ((0, 0), (0, padding), (0, 0)), constant_values=7.0)
    mask = jnp.broadcast_to(jnp.arange(17) < kept, (2, 17))
    got = encode(encoder, padded, jnp.pad(positions, ((0, 0), (0, padding))), mask)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    sorted_positions = jnp.sort(positions, axis=1)
    in_order = jnp.take_along_axis(patches, sorted_positions[..., None], axis=1)
    np.testing.assert_allclose(
        encode(encoder, in_order, sorted_positions), want, rtol=1e-5, atol=1e-5
    )


def test_all_positions_are_the_whole_image():
    encoder = tiny()
    patches = patchify(pictures(), 8)
    positions = jnp.broadcast_to(jnp.arange(16), (2, 16))
    np.testing.assert_array_equal(encode(encoder, patches, positions), encode(encoder, patches))


def test_patches_are_rows_of_row_column_channel():
    image = np.arange(32.0, dtype=np.float32).reshape(1, 4, 4, 2)
    got = patchify(jnp.asarray(image), 2)
    assert got[0, 1].tolist() == [4, 5, 6, 7, 12, 13, 14, 15]
    assert got[0, 2].tolist() == [16, 17, 18, 19, 24, 25, 26, 27]


def test_one_channel_is_the_kernel_folded():
    """Gray repeated into 3 channels equals one channel with the kernel summed over channels."""
    encoder, gray = tiny(), tiny(channels=1)
    state = nnx.to_pure_dict(nnx.state(encoder, nnx.Param))
    kernel = state["patch_embedding"]["kernel"]
    state["patch_embedding"]["kernel"] = kernel.reshape(64, 3, -1).sum(1)
    nnx.update(gray, state)
    images = pictures(channels=1)
    np.testing.assert_allclose(
        answer(gray, images), answer(encoder, jnp.repeat(images, 3, -1)), rtol=1e-5, atol=1e-5
    )


def test_bfloat16_keeps_parameters_and_logits_in_float32():
    images = pictures()
    options = {"key": jax.random.key(0), "image_size": 32}
    model = create("vit_nano8", dtype=jnp.bfloat16, **options)
    assert {x.dtype for x in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    got, want = answer(model, images), answer(create("vit_nano8", **options), images)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=0.05)


def test_stochastic_depth_drops_whole_branches_at_its_rate():
    """With two blocks at rate r the last is dropped at r: its two branches are then all zero."""
    encoder = tiny(stochastic_depth=0.5)
    state = nnx.to_pure_dict(nnx.state(encoder, nnx.Param))
    state["blocks"][1]["mlp"]["out"]["kernel"] *= 0  # leaves the attention's branch alone
    state["blocks"][1]["mlp"]["out"]["bias"] *= 0
    nnx.update(encoder, state)
    images = jnp.repeat(pictures(batch=1), 400, 0)
    got = np.asarray(answer(encoder, images, jax.random.key(0)))
    kinds, counts = np.unique(got.round(3), axis=0, return_counts=True)
    assert len(kinds) == 2  # dropped, or kept at twice its size
    assert 150 < counts[0] < 250


def test_a_key_means_dropout_and_none_means_none():
    model = create("vit_nano8", key=jax.random.key(0), image_size=32, dropout=0.2)
    images = pictures()
    np.testing.assert_array_equal(answer(model, images)[0], answer(model, images)[0])
    first, again = (answer(model, images, jax.random.key(1)) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    assert np.abs(first[0] - answer(model, images, jax.random.key(2))[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("vit_x16", {}, "vit_l16"),
        ("vit_l0", {}, "patch size is 0"),
        ("vit_nano16", {"image_size": 100}, "not a multiple"),
        ("vit_nano16", {"gelu": "fast"}, "exact, tanh"),
        ("vit_nano16", {"dropout": 1.5}, "below 1"),
        ("vit_nano16", {"colour": 1}, "'colour'"),
        ("vit_nano16", {"location_classes": 5}, "3, or 4"),
        ("vit_nano16", {"head": "tree"}, "mlp, linear"),
    ],
)
def test_bad_input_is_named(name, options, says):
    with pytest.raises(InputError, match=says):
        create(name, key=jax.random.key(0), **options)
