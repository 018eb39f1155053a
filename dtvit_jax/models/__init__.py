"""Models by name. They know nothing of devices, meshes or files.

A model's variables are `nnx.Param` alone, and `nnx.BatchStat` where it has BatchNorm (the CNNs):

    graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    model = nnx.merge(graph, params, stats)            # inside a plain jax.jit
    logits = model(images, key=key)                    # a key: training; none: inference
    stats = nnx.state(model, nnx.BatchStat)            # the new running statistics

Kernels (what weight decay is for) are the leaves called `kernel`.
"""

import inspect
import re
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Key

from data_builder.errors import InputError
from dtvit_jax.models.alexnet import AlexNet
from dtvit_jax.models.densenet import DenseNet121
from dtvit_jax.models.dual import DualTask, Encoder
from dtvit_jax.models.resnet import DEPTHS, ResNet
from dtvit_jax.models.squeezenet import POOLS, SqueezeNet
from dtvit_jax.models.vgg import VGG16
from dtvit_jax.models.vit import SIZES, ViT

_VIT = re.compile(rf"vit_({'|'.join(SIZES)})(\d{{1,2}})")

_CNNS: dict[str, tuple[Any, tuple]] = {
    **{f"resnet{depth}": (ResNet, (depth,)) for depth in DEPTHS},
    "alexnet": (AlexNet, ()),
    **{f"squeezenet{version}": (SqueezeNet, (version,)) for version in POOLS},
    "densenet121": (DenseNet121, ()),
    "vgg16": (VGG16, ()),
}

NAMES = (*(f"vit_{size}{patch}" for size in SIZES for patch in (16, 32)), "vit_h14", *_CNNS)
"""Models with a usual name; a ViT may have any patch size."""


def create_encoder(name: str, *, key: Key[Array, ""], **options: Any) -> Encoder:
    """The encoder called `name`, with parameters drawn from `key`.

    `options` are those of its class (`ViT`, `ResNet`, ...), such as image_size, channels and dtype.

    Raises:
        InputError: no model has that name, or it has no such option.
    """
    known: Any
    arguments: tuple
    if match := _VIT.fullmatch(name):
        known, arguments = ViT, (SIZES[match[1]], int(match[2]))
        if arguments[1] == 0:
            raise InputError(f"config.model.name={name!r}: the patch size is 0")
    elif name in _CNNS:
        known, arguments = _CNNS[name]
    else:
        raise InputError(f"config.model.name={name!r}: no such model; there are {', '.join(NAMES)}")
    parameters = inspect.signature(known.__init__).parameters.values()
    allowed = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"rngs"}
    if unknown := sorted(set(options) - allowed):
        raise InputError(
            f"model option {unknown[0]!r}: {name} has none; it has {', '.join(sorted(allowed))}"
        )
    return known(*arguments, **options, rngs=_keys(key))


def patch_size(name: str) -> int | None:
    """A patch's side in pixels of the ViT called `name`; None for other models."""
    match = _VIT.fullmatch(name)
    return int(match[2]) if match else None


def create(
    name: str,
    *,
    key: Key[Array, ""],
    location_classes: int = 3,
    head: str = "mlp",
    head_dropout: float = 0.1,
    **options: Any,
) -> DualTask:
    """The dual-task model with the encoder called `name`; the encoder's `options` as above.

    Wrap it in `nnx.eval_shape` for shapes without numbers, or in `jax.jit` with `nnx.state` to
    make the parameters where they shall live.

    Raises:
        InputError: an unknown name or option, or an option's value that makes no sense.
    """
    encoder_key, head_key = jax.random.split(key)
    encoder = create_encoder(name, key=encoder_key, **options)
    return DualTask(
        encoder,
        location_classes=location_classes,
        head=head,
        head_dropout=head_dropout,
        rngs=_keys(head_key),
    )


class _Counted(nnx.RngStream):
    """The keys of an RngStream, counted in Python.

    Under `nnx.eval_shape` the library's count is a traced number, of which it asks the sharding at
    every step; the answer took three quarters of the time of making a ViT-L.
    """

    def __init__(self, key: Key[Array, ""]) -> None:
        super().__init__(key, tag="params")
        self.given = 0

    def __call__(self) -> Key[Array, ""]:
        self.given += 1
        return jax.random.fold_in(self.key[...], self.given - 1)


def _keys(key: Key[Array, ""]) -> nnx.Rngs:
    rngs: Any = nnx.Rngs(params=key)
    rngs.params = _Counted(key)
    return rngs


def count_parameters(module: nnx.Module | Any) -> int:
    """Trainable numbers in a module, real or abstract (`nnx.eval_shape`)."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
