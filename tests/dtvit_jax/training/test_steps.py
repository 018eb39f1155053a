import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax

from dtvit_jax.training import optimizer as parameter_groups
from dtvit_jax.training.losses import LossWeights, cross_entropy, location_target
from dtvit_jax.training.optimizer import decayed, learning_rate, make_optimizer
from dtvit_jax.training.setup import abstract_state, make_setup
from dtvit_jax.training.steps import (
    evaluate_step,
    mean_figures,
    sums_and_losses,
    train_step,
    validated_variables,
)
from tests.helpers import tiny
from tests.helpers.batches import batch_of, fresh


def no_dropout():
    config = tiny.get_config()
    config.model.head_dropout = 0.0
    return config


def test_the_loss_is_equation_5_by_hand():
    """Location counts ICH slices alone; padding counts nowhere."""
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(5, 2)).astype(np.float32), rng.normal(size=(5, 3)).astype(np.float32)
    batch = {
        "hemorrhage": jnp.array([1, 0, 1, 1, 0]),
        "location": jnp.array([2, -1, 0, 1, -1]),
        "mask": jnp.array([True, True, True, False, True]),
    }
    sums, _ = sums_and_losses(tuple(map(jnp.asarray, logits)), batch)
    found = mean_figures(sums, LossWeights(0.5, 0.5))
    first = -log_softmax(logits[0], 1)[[0, 1, 2, 4], [1, 0, 1, 0]].mean()
    second = -log_softmax(logits[1], 1)[[0, 2], [2, 0]].mean()
    assert found["loss_hemorrhage"] == pytest.approx(first, rel=1e-5)
    assert found["loss_location"] == pytest.approx(second, rel=1e-5)
    assert found["loss"] == pytest.approx(0.5 * first + 0.5 * second, rel=1e-5)
    right = (logits[0].argmax(1) == [1, 0, 1, 1, 0])[[0, 1, 2, 4]].mean()
    assert found["accuracy_hemorrhage"] == pytest.approx(right)


def test_with_four_classes_normal_is_the_fourth():
    hemorrhage, location = jnp.array([1, 0]), jnp.array([1, -1])
    target, counted = location_target(hemorrhage, location, 4)
    assert target.tolist() == [1, 3] and counted.tolist() == [True, True]
    target, counted = location_target(hemorrhage, location, 3)
    assert target[0] == 1 and counted.tolist() == [True, False]


@pytest.fixture(scope="module")
def plain():
    """The task, a first state and the compiled step of `no_dropout`, for a batch of 8."""
    setup, state = fresh(no_dropout())
    return setup, state, jax.jit(functools.partial(train_step, setup=setup))


def test_a_normal_slices_location_label_changes_nothing(plain):
    _, state, step = plain
    batch = batch_of(8)
    other = {**batch, "location": np.where(batch["hemorrhage"], batch["location"], 2)}
    for one, two in zip(
        jax.tree.leaves(step(state, batch)), jax.tree.leaves(step(state, other)), strict=True
    ):
        assert np.array_equal(one, two)


def test_accumulation_gives_the_whole_batchs_step(plain):
    config = no_dropout()
    config.accumulation = 4
    batch = batch_of(8)
    _, state, step = plain
    one, logged = step(state, batch)
    in_parts = make_setup(config, steps=10)
    two, logged_too = jax.jit(functools.partial(train_step, setup=in_parts))(state, batch)
    assert float(logged["loss"]) == pytest.approx(float(logged_too["loss"]), rel=1e-5)
    assert float(logged["gradient_norm"]) == pytest.approx(
        float(logged_too["gradient_norm"]), rel=1e-4
    )
    for a, b in zip(jax.tree.leaves(one.moments), jax.tree.leaves(two.moments), strict=True):
        assert np.allclose(a, b, atol=1e-6)


def test_the_step_descends_the_gradient_of_the_loss(plain):
    """The logged loss and gradient norm are those of Eq. 5 under `jax.grad`."""
    setup, state, step = plain
    batch = {k: jnp.asarray(v) for k, v in batch_of(8).items()}

    def loss(params):
        model = setup.network.model(params, {})
        logits = model(setup.network.transform(batch["image"], batch["augmentation"]))
        ich = batch["hemorrhage"] == 1
        first = optax.softmax_cross_entropy_with_integer_labels(logits[0], batch["hemorrhage"])
        second = optax.softmax_cross_entropy_with_integer_labels(
            logits[1], jnp.where(ich, batch["location"], 0)
        )
        return 0.5 * first.mean() + 0.5 * jnp.where(ich, second, 0).sum() / ich.sum()

    _, logged = step(state, batch)
    expected, grads = jax.jit(jax.value_and_grad(loss))(state.params)
    assert float(logged["loss"]) == pytest.approx(float(expected), rel=1e-5)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
    assert float(logged["gradient_norm"]) == pytest.approx(norm, rel=1e-4)


def test_evaluation_gives_probabilities_and_leaves_out_padding():
    setup, state = fresh(tiny.get_config())
    batch = batch_of(8)
    batch.pop("augmentation")
    full = {**batch, "mask": np.ones(8, bool)}
    half = {**batch, "mask": np.arange(8) < 5}
    evaluate = jax.jit(functools.partial(evaluate_step, network=setup.network))
    sums, p_hemorrhage, p_location = evaluate(state.params, state.stats, full)
    assert sums["n"] == 8 and p_hemorrhage.shape == (8,)
    assert np.allclose(p_location.sum(1), 1, atol=1e-6)
    sums, same, _ = evaluate(state.params, state.stats, half)
    assert sums["n"] == 5 and np.array_equal(same, p_hemorrhage)
    assert sums["n_location"] == batch["hemorrhage"][:5].sum()


def test_weight_decay_is_for_kernels_only():
    _, state = fresh(tiny.get_config())
    chosen = {
        jax.tree_util.keystr(path)
        for path, on in jax.tree_util.tree_leaves_with_path(decayed(state.params))
        if on
    }
    everything = {
        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.params)
    }
    assert chosen == {name for name in everything if name.endswith("['kernel']")}
    assert len(everything - chosen) > 10


def test_learning_rates_by_hand():
    config = tiny.get_config()
    config.learning_rate, config.warmup, config.schedule = 1.0, 0.1, "cosine"
    rate = learning_rate(config, 100)
    assert [round(float(rate(s)), 4) for s in (0, 10, 55, 100)] == [0.1, 1.0, 0.5, 0.0]
    config.warmup, config.schedule = 0.0, "constant"
    rate = learning_rate(config, 100)
    assert [float(rate(s)) for s in (0, 50, 99)] == [1.0, 1.0, 1.0]


def test_adamw_by_hand():
    """One step of a kernel and a bias: moment-free first step of size lr, decay on the kernel."""
    config = tiny.get_config()
    config.learning_rate, config.warmup, config.schedule = 0.1, 0.0, "constant"
    config.weight_decay, config.clip_norm = 0.5, 0.0
    optimizer = make_optimizer(config, 10)
    params = {"kernel": jnp.array([2.0]), "bias": jnp.array([2.0])}
    grads = {"kernel": jnp.array([3.0]), "bias": jnp.array([-3.0])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert float(updates["kernel"][0]) == pytest.approx(-0.1 - 0.1 * 0.5 * 2.0, rel=1e-4)
    assert float(updates["bias"][0]) == pytest.approx(0.1, rel=1e-4)


def test_class_weights_turn_the_loss_into_a_weighted_mean():
    """By torch's rule for class weights: sum(w * loss) / sum(w), each task on its own."""
    config = no_dropout()
    config.accumulation = 2
    setup, state = fresh(config)
    batch = {name: jnp.asarray(value) for name, value in batch_of(8).items()}

    @jax.jit
    def losses(params, stats):
        model = setup.network.model(params, stats)
        logits = model(setup.network.transform(batch["image"], batch["augmentation"]))
        return sums_and_losses(logits, {**batch, "mask": jnp.ones(8, bool)})[1]

    of_hemorrhage, of_location = losses(state.params, state.stats)
    step = jax.jit(functools.partial(train_step, setup=setup))
    drawn = np.random.default_rng(1).uniform(0.2, 3, (8, 2)).astype(np.float32)
    for weights in (drawn, np.ones_like(drawn)):
        first = np.average(of_hemorrhage, weights=weights[:, 0])
        of_ich = weights[:, 1] * np.asarray(batch["hemorrhage"])
        second = np.average(of_location, weights=of_ich)
        _, logged = step(state, {**batch, "class_weight": jnp.asarray(weights)})
        assert float(logged["loss"]) == pytest.approx(0.5 * first + 0.5 * second, rel=1e-5)


def test_smoothed_labels_by_hand():
    """The target of 3 classes at 0.3: 0.8 and twice 0.1. Sums are of the plain loss."""
    logits = np.array([[1.0, 2.0, 0.5], [0.1, -1.0, 3.0]], np.float32)
    labels = jnp.array([1, 2])
    target = np.full((2, 3), 0.1)
    target[[0, 1], [1, 2]] = 0.8
    by_hand = -(target * log_softmax(logits, axis=1)).sum(1)
    assert cross_entropy(jnp.asarray(logits), labels, 0.3) == pytest.approx(by_hand, rel=1e-6)
    two = jnp.asarray(logits[:, :2]), jnp.asarray(logits)
    batch = {"hemorrhage": jnp.array([1, 1]), "location": labels, "mask": jnp.ones(2, bool)}
    plain, _ = sums_and_losses(two, batch)
    smooth, (_, of_location) = sums_and_losses(two, batch, 0.3)
    assert of_location == pytest.approx(by_hand, rel=1e-6)
    assert smooth["loss_location"] == plain["loss_location"]


def leaves(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def test_learning_rates_fall_from_layer_to_layer():
    """Two blocks: what comes before them, block 0, block 1, and the norm with the heads."""
    one = {"kernel": jnp.ones(2)}
    blocks = {0: {"mlp": one}, 1: {"mlp": one}}
    encoder = {"class_token": jnp.ones(2), "patch_embedding": one, "blocks": blocks, "norm": one}
    params = {"encoder": encoder, "hemorrhage": one, "location": one}
    distances = {"class_token": 3, "patch_embedding": 3, "[0]": 2, "[1]": 1}
    config, updates = no_dropout(), []
    for decay in (1.0, 0.5):
        config.layer_decay = decay
        optimizer = make_optimizer(config, 10)
        updates.append(leaves(optimizer.update(params, optimizer.init(params), params)[0]))
    plain, scaled = updates
    for name in plain:
        distance = max((d for part, d in distances.items() if part in name), default=0)
        assert np.allclose(scaled[name], plain[name] * 0.5**distance, rtol=1e-6), name


@pytest.mark.parametrize("frozen", [1, -1])
def test_frozen_parameters_stay_and_their_gradient_is_not_computed(plain, frozen):
    config = no_dropout()
    _, state, step = plain
    whole = step.lower(state, batch_of(8))
    config.frozen_blocks = frozen
    setup = make_setup(config, steps=10)
    abstract = abstract_state(setup)
    trained = parameter_groups.trainable(state.params, frozen)
    state = state._replace(moments=setup.optimizer.init(trained))
    lowered = jax.jit(functools.partial(train_step, setup=setup)).lower(state, batch_of(8))
    flops = [x.cost_analysis()["flops"] for x in (whole, lowered)]
    assert flops[1] < (0.75 if frozen == 1 else 0.45) * flops[0]  # of 3 parts, 2 are backward
    after, logged = lowered.compile()(state, batch_of(8))
    assert float(logged["gradient_norm"]) > 0
    before, after, changing = leaves(state.params), leaves(after.params), leaves(trained)
    for name in before:
        assert np.array_equal(before[name], after[name]) == (name not in changing), name
    assert leaves(abstract.moments).keys() == leaves(state.moments).keys()


def test_the_moving_average_by_hand():
    """d = min(0.9, (1 + t) / (10 + t)) after step t, over parameters, two parts a batch."""
    config = no_dropout()
    config.ema_decay, config.accumulation = 0.2, 2
    setup, state = fresh(config)
    state = state._replace(ema={"params": state.params, "stats": {}})
    step = jax.jit(functools.partial(train_step, setup=setup))
    mean = [np.asarray(x, np.float64) for x in jax.tree.leaves(state.params)]
    for t, kept in enumerate((1 / 10, 2 / 11, 0.2)):
        state, _ = step(state, batch_of(8, seed=t))
        now = jax.tree.leaves(state.params)
        mean = [kept * m + (1 - kept) * np.asarray(x) for m, x in zip(mean, now, strict=True)]
    params, _ = validated_variables(state)
    for by_hand, found in zip(mean, jax.tree.leaves(params), strict=True):
        assert np.allclose(by_hand, found, atol=1e-6)
