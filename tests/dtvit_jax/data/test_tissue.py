"""Tests of tissue patches: the host keeps all that the device sees, and logits are the same."""

import dataclasses
import functools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from data_builder.errors import InputError
from dtvit_jax.data import packing
from dtvit_jax.data.augment import IDENTITY, Augmentation, normalise, sharpen, warp
from dtvit_jax.data.crop import Crop
from dtvit_jax.data.examples import TrainingExamples
from dtvit_jax.data.loader import training_batches
from dtvit_jax.data.packing import Level, choose_levels, pack
from dtvit_jax.data.tissue import Tissue
from dtvit_jax.models import create
from dtvit_jax.models.variables import split_model
from dtvit_jax.models.vit import patches_above
from dtvit_jax.runs.portable import to_stablehlo
from dtvit_jax.runs.trained_run import TrainedRun
from dtvit_jax.train import train
from dtvit_jax.training.config_checks import check_config
from dtvit_jax.training.network import make_tissue
from dtvit_jax.training.setup import make_augmentation
from dtvit_jax.training.steps import probabilities
from tests.helpers import tiny

SIDE, PATCH = 32, 8
RULE = Tissue(SIDE, PATCH, 10.0, 0)
WILD = Augmentation(180.0, 2.0, 0.5, 0.5, 0.3, 0.3, 0.3)


@functools.partial(jax.jit, static_argnames="head")
def transformed_gray(images, parameters, head=None):
    """Applies `augment.transform` up to the normalisation."""
    x = Crop(SIDE, head)(images).astype(jnp.float32)
    x = sharpen(warp(x, parameters), parameters[:, 5])
    return jnp.clip(x * parameters[:, 6, None, None], 0, 255)


def patches_with(gray, threshold=10.0):
    side = SIDE // PATCH
    return (gray.reshape(-1, side, PATCH, side, PATCH).max((2, 4)) > threshold).reshape(
        len(gray), -1
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), *[st.booleans()] * 3)
def test_no_pixel_above_the_threshold_is_lost(seed, soft, still, head):
    """Isolated faint pixels under any transform are the hardest case."""
    rng = np.random.default_rng(seed)
    images = np.where(rng.random((16, 36, 36)) < 0.01, rng.integers(3, 30, (16, 36, 36)), 0)
    images = images.astype(np.uint8)
    augmentation = dataclasses.replace(WILD, sharpness=0.3) if soft else WILD
    rows = augmentation.draw(seed, 0, len(images))
    if still:  # half pixels: every coordinate lies on a rounding edge
        rows[:, :4] = [0, 1, 0.5 / SIDE, -1.5 / SIDE]
    if head:
        images[:, :, 20:] = 0  # a small one: magnified
    exact = patches_with(
        np.asarray(transformed_gray(images, rows, RULE.threshold if head else None))
    )
    rule = dataclasses.replace(RULE, head_crop=head)
    kept = np.stack([rule.kept(*pair) for pair in zip(images, rows, strict=True)])
    assert not (exact & ~kept).any()


def test_few_patches_more_than_exact_are_kept():
    """On discs like heads; without augmentation exactly those of the rule."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:36, :36]
    radius = rng.uniform(5, 16, (64, 1, 1))
    images = (150 * ((x - 18) ** 2 + (y - 17) ** 2 < radius**2)).astype(np.uint8)
    paper = Augmentation(15.0, 2.0, 0.5, 0.0, 0.0, 0.0, 0.0)
    rows = paper.draw(0, 0, len(images))
    exact = patches_with(np.asarray(transformed_gray(images, rows)))
    kept = np.stack([RULE.kept(*pair) for pair in zip(images, rows, strict=True)])
    assert exact.sum() <= kept.sum() <= 1.02 * exact.sum()
    identity = np.repeat(IDENTITY[None], len(images), 0)
    plain = np.stack([RULE.kept(image) for image in images])
    assert (plain == patches_with(np.asarray(transformed_gray(images, identity)))).all()


def test_the_margin_by_hand():
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[9, 14] = 11  # patch (1, 1): 1 pixel below its upper edge, 1 pixel left of its right one
    assert np.flatnonzero(RULE.kept(image)).tolist() == [5]
    wider = dataclasses.replace(RULE, margin=2)
    assert np.flatnonzero(wider.kept(image)).tolist() == [1, 2, 5, 6]
    image[9, 14] = 10
    assert not RULE.kept(image).any()


def test_the_model_finds_the_same_patches_in_its_own_input():
    """In the compiled graph on normalised windows, as in prediction and export."""
    rng = np.random.default_rng(1)
    images = np.where(rng.random((8, SIDE, SIDE)) < 0.02, rng.integers(5, 16, (8, SIDE, SIDE)), 0)
    windows, mean, std = ((144.0, 208.0), (0.0, 255.0)), (0.5, 0.4), (0.5, 0.2)
    for margin in (0, 2):
        rule = dataclasses.replace(RULE, margin=margin)
        channel, level, reach = rule.of_input(windows, mean, std)
        shown = normalise(jnp.float32(images), windows, mean, std, 2)
        found = np.asarray(patches_above(shown[..., channel], level, PATCH, reach))
        host = np.stack([rule.kept(image) for image in images.astype(np.uint8)])
        assert (found == host).all() and 0 < host.mean() < 1
    with pytest.raises(InputError, match=r"no channel of config\.windows shows gray 10\.5"):
        RULE.of_input(windows[:1], mean, std)


OPTIONS = {"key": jax.random.key(0), "image_size": SIDE, "channels": 1, "head_dropout": 0.0}


def images_of(counts, seed=0):
    """Returns images of noise, and a mask that keeps `counts` patches of each."""
    rng = np.random.default_rng(seed)
    kept = np.zeros((len(counts), RULE.patches), bool)
    for row, n in zip(kept, counts, strict=True):
        row[rng.permutation(RULE.patches)[:n]] = True
    return jnp.asarray(rng.normal(size=(len(counts), SIDE, SIDE, 1)), jnp.float32), kept


@functools.cache
def model(**options):
    return split_model(create("vit_nano8", **OPTIONS, **options))


@functools.cache
def compiled(seed=None, **options):
    """Returns the compiled model: (parameters, images, packing) to the logits of both tasks."""
    graph, _, stats = model(**options)
    key = None if seed is None else jax.random.key(seed)

    def call(params, images, packed):
        net = nnx.merge(graph, nnx.State(params), nnx.State(stats))
        return jnp.concatenate(net(images, packing=packed, key=key), axis=1)

    return jax.jit(call)


def answer(images, packed=None, **options):
    params = model(**{k: v for k, v in options.items() if k != "seed"})[1]
    return np.asarray(compiled(**options)(params, images, packed))


def with_tissue(images, kept):
    """Returns the images with -1 in patches that are not kept, which the dense form then masks."""
    of_pixel = np.repeat(np.repeat(kept.reshape(-1, 4, 4), PATCH, 1), PATCH, 2)[..., None]
    return jnp.asarray(np.where(of_pixel, np.abs(images), -1.0), jnp.float32)


MASKED = {"tissue": (0, -0.5, 0)}
"""The dense form's rule for such images."""

WHOLE = Level(4 * RULE.patches, (RULE.patches + 1,) * 4)
ROOMY = Level(40, (17, 16, 9, 9))
COUNTS = (3, 16, 0, 9)


def test_with_every_patch_kept_it_is_the_dense_model():
    images, kept = images_of([RULE.patches] * 4)
    dense = answer(images)
    assert np.abs(answer(images, pack(kept, WHOLE, 1)) - dense).max() < 1e-5


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_an_answer_depends_on_no_bucket_and_no_neighbour(pooling):
    """Packed tightly, loosely, and dense with masked patches; the third slice has no tissue."""
    images, kept = images_of(COUNTS)
    images = with_tissue(images, kept)
    dense = answer(images, pooling=pooling, **MASKED)
    assert np.isfinite(dense).all()
    for level in (Level(28, (17, 10, 4, 1)), ROOMY)[pooling == "mean" :]:
        found = answer(images, pack(kept, level, 1), pooling=pooling, **MASKED)
        assert np.abs(found - dense).max() < 1e-5
    other, other_kept = images_of((15, 16, 2, 0), seed=5)
    other, other_kept[1] = with_tissue(other, other_kept).at[1].set(images[1]), kept[1]
    found = answer(other, pack(other_kept, ROOMY, 1), pooling=pooling, **MASKED)
    assert np.abs(found[1] - dense[1]).max() < 1e-5


def test_a_slice_without_tissue_has_the_answer_of_its_class_token():
    """For any pixels, and with either pooling."""
    images, kept = images_of((0, 0, 5, 5))
    found = answer(images, pack(kept, ROOMY, 1), pooling="cls", **MASKED)
    assert (found[0] == found[1]).all() and np.abs(found[2] - found[0]).max() > 1e-3
    mean = answer(images, pack(kept, ROOMY, 1), pooling="mean", **MASKED)
    assert np.abs(mean[:2] - found[:2]).max() < 1e-5


def test_groups_hold_each_devices_part_and_change_nothing():
    """With a batch divided as in `train_step`: [devices * accumulation] on the first axis."""
    images, kept = images_of([3, 16, 0, 9, 1, 5, 8, 2])
    whole = answer(images, pack(kept, Level(64, (17,) * 4), 1))
    devices = pack(kept, Level(32, (17,) * 2), 2)
    assert np.abs(answer(images, devices) - whole).max() < 1e-5
    both = pack(kept, Level(32, (17,) * 2), 4, accumulation=2)

    def parts(x):
        return x.reshape(-1, 2, *x.shape[1:]).swapaxes(0, 1)

    halves = jax.tree.map(parts, both)
    for i in range(2):
        part = jax.tree.map(lambda x, i=i: x[i], halves)
        assert np.abs(answer(parts(images)[i], part) - parts(whole)[i]).max() < 1e-5


def test_gradients_are_those_of_the_masked_dense_model():
    """With scan and remat."""
    images, kept = images_of(COUNTS)
    images, packed = with_tissue(images, kept), pack(kept, ROOMY, 1)

    def gradient(packed, **options):
        def loss(params):
            return (compiled(**options)(params, images, packed) * jnp.arange(5)).sum()

        return jax.tree.leaves(jax.jit(jax.grad(loss))(model(**options)[1]))

    dense = gradient(None, pooling="mean", **MASKED)
    largest = max(float(np.abs(one).max()) for one in dense)
    found = gradient(packed, pooling="mean", **MASKED, scan=True, remat=True)
    for one, two in zip(dense, found, strict=True):
        assert np.abs(one - two).max() < 1e-5 * largest


def test_stochastic_depth_drops_whole_slices():
    """Equal slices differ by which branches of the last block are dropped: up to four ways."""
    images, kept = images_of([5] * 8)
    images, kept = jnp.repeat(images[:1], 8, 0), np.repeat(kept[:1], 8, 0)
    packed = pack(kept, Level(40, (6,) * 4), 1)
    found = answer(images, packed, pooling="mean", stochastic_depth=0.5, seed=3)
    kinds = {tuple(row) for row in np.round(found, 4)}
    assert 1 < len(kinds) <= 4


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 16), min_size=4, max_size=40), st.sampled_from([1, 2, 4, 6]))
def test_levels_are_few_and_the_last_fits_everything(counts, slices):
    levels = choose_levels(counts, slices, 16)
    assert 1 <= len(levels) <= 5
    assert [level.tokens for level in levels] == sorted(level.tokens for level in levels)
    assert levels[-1].fits(np.full((3, slices), 16))
    drawn = np.random.default_rng(1).choice(counts, (1, slices))
    level = next(level for level in levels if level.fits(drawn))
    assert level.tokens >= drawn.sum()


def test_levels_by_hand():
    """With two kinds of slices: a level for each possible total, and that of all patches."""
    levels = choose_levels([8, 16] * 10, 2, 32)
    assert [level.tokens for level in levels] == [16, 24, 32, 64]
    assert levels[0].lengths == (16, 16) and levels[1].lengths == (24, 16)


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    """A finished run on tissue patches: workdir, config, numbers of the step's compilations."""
    compiled = []
    original = jax.jit

    def counting(function, **options):
        made = original(function, **options)
        compiled.append(made)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", counting)
        patch.setattr(packing, "LEVELS", 2)  # less to compile
        workdir = tmp_path_factory.mktemp("runs") / "tissue"
        config = tissue_config(shards)
        assert train(config, workdir, "a command") == 0
    steps = [f for f in compiled if getattr(f, "__wrapped__", None) is not None]
    sizes = [f._cache_size() for f in steps if "train_step" in repr(f.__wrapped__)]
    return workdir, config, sizes


def tissue_config(shards):
    config = tiny.get_config(shards.folder)
    config.model.tokens = "tissue"
    config.num_epochs = 4
    config.eval_every_epochs = 2.0
    return config


def saved(workdir):
    step = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    path = workdir / "checkpoints" / str(step) / "state"
    return jax.tree.leaves(ocp.StandardCheckpointer().restore(path.absolute()))


def test_a_run_learns_and_compiles_its_step_for_few_shapes(trained):
    workdir, _, sizes = trained
    history = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in history if row["split"] == "validation"]
    assert losses[-1] < losses[0]
    assert len(sizes) == 1 and 1 <= sizes[0] <= 2


def test_prediction_is_the_dense_forms(trained, shards):
    """Packed batches against the exported program, in which the model masks whole slices."""
    workdir, _, _ = trained
    run = TrainedRun(workdir)
    found = run.predict("test")
    network, params, stats = run.model()
    source = run.shards.source("test")
    images = np.stack([source[i]["image"] for i in range(len(source))])

    def dense(images):
        net = network.model(params, stats)
        p_hemorrhage, p_location = probabilities(net(network.transform(images, None)))
        return {"p_hemorrhage": p_hemorrhage, "p_location": p_location}

    exported = jax.export.deserialize(bytearray(to_stablehlo(dense, images.shape[1])))
    for name, values in exported.call(images).items():
        assert np.abs(getattr(found, name) - np.asarray(values)).max() < 1e-5


def test_a_stopped_run_goes_on_to_the_same_bytes(trained, shards, tmp_path, monkeypatch):
    workdir, config, _ = trained
    from dtvit_jax.training import trainer as module

    original = module.training_batches

    class Stopping:
        """Sends the run SIGTERM with its fifth batch."""

        def __init__(self, *arguments, **options):
            self._batches, self._served = original(*arguments, **options), 0

        def __next__(self):
            self._served += 1
            if self._served == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return next(self._batches)

        def __getattr__(self, name):
            return getattr(self._batches, name)

    monkeypatch.setattr(packing, "LEVELS", 2)
    monkeypatch.setattr(module, "training_batches", Stopping)
    assert train(config, tmp_path / "run", "a command") == 143
    monkeypatch.setattr(module, "training_batches", original)
    assert train(config, tmp_path / "run", "a command") == 0
    for one, two in zip(saved(workdir), saved(tmp_path / "run"), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


def test_each_process_packs_its_part_of_what_one_would(shards):
    """For any division of the rows; each process uses the level of the whole batch."""
    config = tissue_config(shards)
    examples = TrainingExamples(
        shards.source("train"), config.data.balance, make_augmentation(config), config.seed
    )
    packer = packing.for_training(make_tissue(config), examples, config, devices=4)
    whole = next(training_batches(examples, 8, packer=packer))["packing"]
    for rows in ([0, 1, 4, 5], [2, 3, 6, 7]):
        part = next(training_batches(examples, 8, np.array(rows), packer=packer))["packing"]
        groups = np.array(rows[::2]) // 2
        for one, two in zip(jax.tree.leaves(part), jax.tree.leaves(whole), strict=True):
            assert (one == two[groups]).all()


def test_the_same_examples_in_the_same_order_as_with_all_tokens(shards):
    """Packing leaves a batch's slices, labels and augmentation as they are."""
    config = tissue_config(shards)
    examples = TrainingExamples(
        shards.source("train"), config.data.balance, make_augmentation(config), config.seed
    )
    packer = packing.for_training(make_tissue(config), examples, config, devices=1)
    packed, plain = training_batches(examples, 8, packer=packer), training_batches(examples, 8)
    for _ in range(6):
        one, two = next(packed), next(plain)
        layout = one.pop("packing")
        assert (layout.source >= 0).sum() > 0
        assert sorted(one) == sorted(two)
        assert all((one[name] == two[name]).all() for name in two)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.tokens": "some"}, r"config\.model\.tokens='some'"),
        ({"tissue.threshold": -1.0}, r"config\.tissue\.threshold"),
        ({"tissue.margin": -1}, r"config\.tissue\.margin"),
        ({"windows": ((100, 200),)}, "no channel of config"),
        ({"model.name": "resnet18"}, "needs whole images"),
    ],
)
def test_a_rule_that_makes_no_sense_is_one_line(shards, change, words):
    config = tissue_config(shards)
    config.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=words) as error:
        check_config(config)
    assert "\n" not in str(error.value)
