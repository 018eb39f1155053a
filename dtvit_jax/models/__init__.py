"""Makes models by name; models are independent of devices, meshes and files.

A model's variables are `nnx.Param`, and `nnx.BatchStat` where it has BatchNorm (CNNs), only:

    graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    model = nnx.merge(graph, params, stats)            # inside a plain jax.jit
    logits = model(images, key=key)                    # a key in training; none in inference
    stats = nnx.state(model, nnx.BatchStat)            # the new running statistics

Weight decay applies to the leaves named `kernel`. `kernels` is about something else: 'auto' takes
the forms of operations that are fast on a CPU (layers_cpu.py), 'plain' JAX's own operations only,
which exporters to other formats can write. Parameters and, up to rounding, answers are the same.
"""

import functools
import inspect
import re
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Key

from data_builder.errors import InputError
from dtvit_jax.models.alexnet import AlexNet
from dtvit_jax.models.densenet import DenseNet121
from dtvit_jax.models.dual import DualTask, Encoder
from dtvit_jax.models.kernels import PLAIN
from dtvit_jax.models.layers_cpu import AUTO
from dtvit_jax.models.resnet import DEPTHS, ResNet
from dtvit_jax.models.squeezenet import POOLS, SqueezeNet
from dtvit_jax.models.vgg import VGG16
from dtvit_jax.models.vit import SIZES, ViT

KernelForm = Literal["auto", "plain"]
_FORMS = {"auto": AUTO, "plain": PLAIN}

_VIT = re.compile(rf"vit_({'|'.join(SIZES)})(\d{{1,2}})")

_CNNS: dict[str, functools.partial[Any]] = {  # of a CNN
    **{f"resnet{depth}": functools.partial(ResNet, depth) for depth in DEPTHS},
    "alexnet": functools.partial(AlexNet),
    **{f"squeezenet{version}": functools.partial(SqueezeNet, version) for version in POOLS},
    "densenet121": functools.partial(DenseNet121),
    "vgg16": functools.partial(VGG16),
}

NAMES = (*(f"vit_{size}{patch}" for size in SIZES for patch in (16, 32)), "vit_h14", *_CNNS)
"""The usual models; a ViT may have any other patch size."""


def create_encoder(
    name: str,
    *,
    key: Key[Array, ""],
    kernels: KernelForm = "auto",
    dtype: DTypeLike = jnp.float32,
    **options: Any,
) -> Encoder:
    """Makes the encoder `name`, with parameters drawn from `key`.

    It computes in `dtype`. `options` are keyword arguments of its class (`ViT`, `ResNet`, ...),
    such as image_size and channels.

    Raises:
        InputError: there is no model of that name, or it has no such option.
    """
    make: functools.partial[Any]
    if match := _VIT.fullmatch(name):
        patch = int(match[2])
        if patch == 0:
            raise InputError(f"config.model.name={name!r}: the patch size is 0")
        make = functools.partial(ViT, SIZES[match[1]], patch)
    elif name in _CNNS:
        make = _CNNS[name]
    else:
        raise InputError(f"config.model.name={name!r}: no such model; there are {', '.join(NAMES)}")
    parameters = inspect.signature(make.func.__init__).parameters.values()
    allowed = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} | {"dtype"}
    if unknown := sorted(set(options) - allowed):
        raise InputError(
            f"model option {unknown[0]!r}: {name} has none; it has {', '.join(sorted(allowed))}"
        )
    return make(**options, kernels=_FORMS[kernels], dtype=dtype, rngs=_rngs(key))


def patch_size(name: str) -> int | None:
    """Side in pixels of a patch of the ViT `name`; None for other models."""
    match = _VIT.fullmatch(name)
    return int(match[2]) if match else None


def create(
    name: str,
    *,
    key: Key[Array, ""],
    location_classes: int = 3,
    head: str = "mlp",
    head_dropout: float = 0.1,
    kernels: KernelForm = "auto",
    **options: Any,
) -> DualTask:
    """Makes the dual-task model with the encoder `name`; `options` as in `create_encoder`.

    Call it inside `nnx.eval_shape` for shapes alone, or inside `jax.jit` with `nnx.state` to draw
    the parameters on the devices that keep them.

    Raises:
        InputError: there is no such name or option, or an option's value is invalid.
    """
    encoder_key, head_key = jax.random.split(key)
    return DualTask(
        create_encoder(name, key=encoder_key, kernels=kernels, **options),
        location_classes=location_classes,
        head=head,
        head_dropout=head_dropout,
        rngs=_rngs(head_key),
    )


class _CountedStream(nnx.RngStream):
    """The keys of an nnx.RngStream, counted in Python.

    Under `nnx.eval_shape` nnx's own count is a traced number, and asking for its sharding at every
    step took three quarters of the time of making a ViT-L.
    """

    def __init__(self, key: Key[Array, ""]) -> None:
        super().__init__(key, tag="params")
        self.drawn = 0

    def __call__(self) -> Key[Array, ""]:
        self.drawn += 1
        return jax.random.fold_in(self.key[...], self.drawn - 1)


def _rngs(key: Key[Array, ""]) -> nnx.Rngs:
    rngs: Any = nnx.Rngs(params=key)
    rngs.params = _CountedStream(key)
    return rngs


def count_parameters(module: nnx.Module | Encoder) -> int:
    """Number of trainable values of a module, real or abstract (`nnx.eval_shape`)."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
