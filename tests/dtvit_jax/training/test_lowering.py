"""The programs that GPUs and TPUs would run, traced and lowered on a host that has neither.

Each recipe, with every kind of attention and of tokens, for its train, evaluation and prediction
step. jax's own rules for cuDNN apply; only its three questions to the hardware are answered here.
What this can't see: what XLA's passes for the device make of a program, and its speed. Encoders are
two blocks deep, as all blocks are alike. DTVIT_LOWERING=1 takes every recipe; without it those of
ONE_OF_A_KIND are taken.
"""

import dataclasses
import functools
import importlib
import itertools
import os
import re

import jax
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from data_builder.errors import InputError
from dtvit_jax.data.packing import Level, pack
from dtvit_jax.models.vit import SIZES
from dtvit_jax.planning.step_cost import abstract_batch
from dtvit_jax.prediction.classifier import answer_step
from dtvit_jax.training import network
from dtvit_jax.training.config_checks import check_config
from dtvit_jax.training.network import Device
from dtvit_jax.training.setup import abstract_state, make_setup
from dtvit_jax.training.steps import evaluate_step, train_step
from tests.helpers import ROOT

H100, V100, TPU = Device("gpu", (9, 0)), Device("gpu", (7, 0)), Device("tpu")
LOWERING = {"gpu": "cuda", "tpu": "tpu"}
ONE_OF_A_KIND = ("vit_l", "resnet18")
ALL = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py"))
RECIPES = ALL if os.environ.get("DTVIT_LOWERING") else ONE_OF_A_KIND
STEPS = ("train", "evaluate", "predict")
HEADS = 2  # of two linear layers, which compute in float32
CALLS = {"cu_threefry2x32_ffi", "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}


def recipe(name, tokens="all", attention="auto"):
    config = importlib.import_module(f"configs.{name}").get_config()
    if config.model.name.startswith("vit"):
        config.model.tokens, config.model.attention = tokens, attention
    return config


@pytest.fixture
def on(monkeypatch):
    """Sets the device that the program believes in, and makes encoders two blocks deep."""
    for name, size in SIZES.items():
        monkeypatch.setitem(SIZES, name, dataclasses.replace(size, depth=2))

    def device(device):
        monkeypatch.setattr(network, "local_device", lambda: device)
        monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
        capable = device.capability
        at_least = lambda text: capable >= tuple(map(int, text.split(".")))  # noqa: E731
        equal = lambda text: capable == tuple(map(int, text.split(".")))  # noqa: E731
        monkeypatch.setattr(cudnn, "check_compute_capability", at_least)
        monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", equal)

    return device


def batch_of(config, training):
    """Shapes of a batch, as the loader makes it."""
    if training:
        batch = abstract_batch(config)
    else:
        n, side = config.eval_batch_size, config.data.size
        batch = {
            "image": jax.ShapeDtypeStruct((n, side, side), np.uint8),
            "hemorrhage": jax.ShapeDtypeStruct((n,), np.int32),
            "location": jax.ShapeDtypeStruct((n,), np.int32),
            "mask": jax.ShapeDtypeStruct((n,), bool),
        }
    if config.model.get("tokens") == "tissue":
        n, patches = batch["image"].shape[0], network.make_tissue(config).patches
        level = Level(n * patches, (patches + 1, 8))  # an odd length and an even one
        packing = pack(np.zeros((n, patches), bool), level, groups=1)
        batch["packing"] = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), packing)
    return batch


def lowered(config, step, device):
    """StableHLO of one step for a device, and the number of arrays that it may overwrite."""
    setup = make_setup(config, steps=10)
    state = abstract_state(setup)
    model = state.params, state.stats
    if step == "train":
        function = jax.jit(functools.partial(train_step, setup=setup), donate_argnums=0)
        arguments = state, batch_of(config, training=True)
    elif step == "evaluate":
        function = jax.jit(functools.partial(evaluate_step, network=setup.network))
        arguments = *model, batch_of(config, training=False)
    else:
        function = jax.jit(functools.partial(answer_step, network=setup.network))
        arguments = *model, batch_of(config, training=False)["image"]
    program = function.trace(*arguments).lower(lowering_platforms=(LOWERING[device.platform],))
    donated = len(jax.tree.leaves(state)) if step == "train" else 0
    return program.as_text(), donated


def products(text):
    """The types of both operands of each product and convolution."""
    kinds = r"(?:dot_general|convolution)\b.* : \(tensor<(\S+)>, tensor<(\S+)>\)"
    return re.findall(kinds, text)


def check(text, donated, step, dtype):
    narrow, wide = {"bfloat16": ("bf16", "f32"), "float32": ("f32", "bf16")}[dtype]
    of_heads = [pair for pair in products(text) if not all(t.endswith(narrow) for t in pair)]
    # in training a layer has three products: its output, its weights' gradient, its input's
    expected = 2 * HEADS * (3 if step == "train" else 1) if dtype == "bfloat16" else 0
    assert len(of_heads) == expected, of_heads
    assert all(t.endswith(wide) and t.count("x") == 2 for pair in of_heads for t in pair)
    assert len(products(text)) > 4 + expected
    signature = text[text.index("@main(") : text.index("->", text.index("@main("))]
    assert len(re.findall(r"tf.aliasing_output|jax.buffer_donor", signature)) == donated
    assert set(re.findall(r"custom_call @([\w$]+)", text)) <= CALLS
    assert not re.search(r"stablehlo\.(infeed|outfeed|send|recv)|callback", text)
    assert "optimization_barrier" not in text  # `settle` is for the CPU alone


def kinds(recipes):
    """(recipe, tokens, attention) for each that the model has."""
    vits = [name for name in recipes if recipe(name).model.name.startswith("vit")]
    of_vits = itertools.product(vits, ("all", "tissue"), ("xla", "cudnn"))
    return [*of_vits, *((name, "all", "xla") for name in recipes if name not in vits)]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("name", "tokens", "attention"), kinds(RECIPES))
def test_a_recipe_lowers_for_an_nvidia_gpu(on, name, tokens, attention, step):
    on(H100)
    config = recipe(name, tokens, attention)
    text, donated = lowered(config, step, H100)
    check(text, donated, step, "bfloat16")
    assert ("fmhaSoftmax" in text) == (attention == "cudnn")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("name", "tokens"), [(name, tokens) for name, tokens, kind in kinds(RECIPES) if kind == "xla"]
)
def test_a_recipe_lowers_for_a_tpu(on, name, tokens, step):
    on(TPU)
    check(*lowered(recipe(name, tokens), step, TPU), step, "bfloat16")


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_a_gpu_without_bfloat16_computes_in_float32(on, name):
    on(V100)
    check(*lowered(recipe(name), "train", V100), "train", "float32")


@pytest.mark.parametrize("device", [V100, TPU, Device("cpu")])
def test_cudnn_is_refused_where_it_can_not_run(on, device):
    on(device)
    with pytest.raises(InputError, match=r"config\.model\.attention='cudnn' needs"):
        check_config(recipe("vit_l", attention="cudnn"))


def test_a_cudnn_run_is_evaluated_with_xlas_attention_elsewhere(on):
    on(TPU)
    text, _ = lowered(recipe("vit_l", attention="cudnn"), "evaluate", TPU)
    assert "cudnn" not in text


def test_an_unknown_attention_is_refused(on):
    on(H100)
    with pytest.raises(InputError, match=r"config\.model\.attention='flash': it is auto, xla or"):
        check_config(recipe("vit_l", attention="flash"))
