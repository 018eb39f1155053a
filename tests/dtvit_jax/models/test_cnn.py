"""The CNNs against stored answers of torchvision's, and the layers by hand calculation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_builder.errors import InputError
from dtvit_jax import convert
from dtvit_jax.models import count_parameters, create, create_encoder
from dtvit_jax.models.layers import BatchNorm, adaptive_average_pool, max_pool
from dtvit_jax.weights import files, layouts
from tests.helpers.reference_models import assert_equal, load, our_answers, write_reference

# Encoder; with torchvision's 1000-class head, as its documentation has it (num_params).
GOLDEN = {
    "resnet18": (11_176_512, 11_689_512),
    "resnet34": (21_284_672, 21_797_672),
    "resnet50": (23_508_032, 25_557_032),
    "alexnet": (57_003_840, 61_100_840),
    "squeezenet1_0": (735_424, 1_248_424),
    "squeezenet1_1": (722_496, 1_235_496),
    "densenet121": (6_953_856, 7_978_856),
    "vgg16": (134_260_544, 138_357_544),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_counts(name):
    encoder = nnx.eval_shape(lambda: create_encoder(name, key=jax.random.key(0)))
    head = 1000 * encoder.features + 1000
    assert (count_parameters(encoder), count_parameters(encoder) + head) == GOLDEN[name]


@pytest.mark.parametrize("name", GOLDEN)
def test_a_cnn_answers_as_torchvisions(name, tmp_path):
    path, state, about, want = write_reference(name, tmp_path)
    encoder = load(path, about["model"], image_size=about["side"]).encoder
    got = our_answers(encoder, state, about["side"])
    assert want.keys() == {"stem", "block", "logits"}
    for part in want:
        assert_equal(got[part][..., :8] if want[part].ndim == 4 else got[part], want[part])


def test_older_densenet_names(tmp_path):
    """The published file says denselayer1.norm.1 for denselayer1.norm1."""
    layout_names = {
        "features.denseblock1.denselayer1.norm.1.weight": np.ones(64),
        "features.denseblock1.denselayer1.conv.2.weight": np.ones(1),
        "features.conv0.weight": np.ones(1),
        "classifier.weight": np.ones(1),
    }
    layout = layouts.recognise(layout_names)
    assert set(layout.clean(layout_names)) == {
        "features.denseblock1.denselayer1.norm1.weight",
        "features.denseblock1.denselayer1.conv2.weight",
        "features.conv0.weight",
    }


def test_a_cnn_goes_out_under_torchvisions_names_and_back(tmp_path):
    path, state, _, _ = write_reference("squeezenet1_1", tmp_path)
    out = tmp_path / "out.safetensors"
    arguments = ["--model", "squeezenet1_1", "--image_size", "64", "--out", str(out)]
    assert convert.main([str(path), *arguments]) == 0
    written = files.read(out).arrays
    assert written.keys() == {name for name in state if not name.startswith("classifier")}
    for name, array in written.items():
        np.testing.assert_array_equal(array, state[name])


def test_batch_norm_trains_as_torchs_does():
    """By hand: batch statistics; running ones move by a tenth, the variance unbiased."""
    x = np.array([1.0, 2.0, 3.0, 6.0], np.float32).reshape(2, 2, 1, 1)
    norm = BatchNorm(1)
    got = norm(jnp.asarray(x), True)
    # mean 3, variance 3.5 (biased), 14/3 (unbiased)
    np.testing.assert_allclose(got, (x - 3) / np.sqrt(3.5 + 1e-5), rtol=1e-6)
    np.testing.assert_allclose(norm.mean[...], [0.3], rtol=1e-6)
    np.testing.assert_allclose(norm.var[...], [0.9 + 1.4 / 3], rtol=1e-6)
    again = norm(jnp.asarray(x), False)
    np.testing.assert_allclose(again, (x - 0.3) / np.sqrt(0.9 + 1.4 / 3 + 1e-5), rtol=1e-5)


def test_running_statistics_come_back_from_a_plain_jit():
    def make():
        return create("resnet18", key=jax.random.key(0), image_size=32)

    graph, params, stats = nnx.split(nnx.eval_shape(make), nnx.Param, nnx.BatchStat)
    params, stats = jax.tree.map(lambda x: jnp.full(x.shape, 0.01), (params, stats))

    @jax.jit
    def step(params, stats, images, key):
        model = nnx.merge(graph, params, stats)
        model(images, key=key)
        return nnx.state(model, nnx.BatchStat)

    images = jnp.ones((2, 32, 32, 3)) * jnp.arange(2)[:, None, None, None]
    new = step(params, stats, images, jax.random.key(0))
    assert jax.tree.structure(new) == jax.tree.structure(stats)
    before = nnx.to_pure_dict(stats)["encoder"]["bn1"]["mean"]
    assert np.abs(nnx.to_pure_dict(new)["encoder"]["bn1"]["mean"] - before).max() > 1e-3


def test_pooling_with_a_last_window_that_stands_out():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    floor, ceil = max_pool(x, 3, 2), max_pool(x, 3, 2, ceil=True)
    assert floor[0, :, :, 0].tolist() == [[10]]
    assert ceil[0, :, :, 0].tolist() == [[10, 11], [14, 15]]
    assert max_pool(-x - 1, 3, 2, padding=1)[0, :, :, 0].tolist() == [[-1, -2], [-5, -6]]


def test_adaptive_pooling_to_more_and_fewer_cells():
    x = jnp.arange(5.0).reshape(1, 5, 1, 1) * jnp.ones((1, 5, 5, 1))
    # cells of rows: 0-1, 1-3, 3-4
    assert adaptive_average_pool(x, 3)[0, :, 0, 0].tolist() == pytest.approx([0.5, 2, 3.5])
    one = jnp.array([2.0, 4.0]).reshape(1, 2, 1, 1) * jnp.ones((1, 2, 2, 1))
    assert adaptive_average_pool(one, 3)[0, :, 0, 0].tolist() == pytest.approx([2, 3, 4])


@pytest.mark.parametrize("name", ["resnet18", "alexnet", "squeezenet1_0", "densenet121", "vgg16"])
def test_images_too_small_are_refused(name):
    with pytest.raises(InputError, match=f"{name} needs at least"):
        create(name, key=jax.random.key(0), image_size=16)


def test_a_vits_options_are_not_a_cnns():
    with pytest.raises(InputError, match="'gelu': resnet18 has none"):
        create("resnet18", key=jax.random.key(0), gelu="exact")
