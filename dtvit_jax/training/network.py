"""Builds the network that a config describes: the model's graph and shapes, and its transform."""

import dataclasses
import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx
from jaxtyping import Array, Float, UInt8

from data_builder.errors import InputError
from dtvit_jax import models
from dtvit_jax.data.augment import transform
from dtvit_jax.data.crop import Crop
from dtvit_jax.data.tissue import Tissue
from dtvit_jax.models.dual import DualTask
from dtvit_jax.models.variables import Tree, merge_model, split_model

Transform = Callable[
    [UInt8[Array, "batch size size"], Float[Array, "batch parameters"] | None],
    Float[Array, "batch side side channels"],
]
"""Stored slices and augmentation parameters (None: no augmentation) to the model's input."""


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity, as heat maps' static argument
class Network:
    """A dual-task model without its values, and the transform that makes its input.

    Attributes:
      graph: the model's structure, what `nnx.split` returns first.
      params, stats: shapes and types of its parameters and batch statistics.
      transform: from stored slices to the model's input.
      gather: from parameters in parts to whole ones, where devices hold parts of them
        (`sharding.gather_for_use`); None where every device holds all.
    """

    graph: nnx.GraphDef
    params: Tree
    stats: Tree
    transform: Transform
    gather: Callable[[Tree], Tree] | None = None

    def model(self, params: Tree, stats: Tree) -> DualTask:
        """The model with these values, to be called inside a plain `jax.jit`.

        That costs next to nothing there, unlike `nnx.jit`, which splits and merges at each call.
        """
        whole = self.gather(params) if self.gather else params
        return merge_model(self.graph, whole, stats)


@dataclasses.dataclass(frozen=True)
class Device:
    """What this process computes on.

    Attributes:
      platform: JAX's name of it: 'cpu', 'gpu' or 'tpu'.
      capability: an NVIDIA GPU's compute capability; (0, 0) elsewhere.
    """

    platform: str
    capability: tuple[int, int] = (0, 0)

    @property
    def has_bfloat16(self) -> bool:
        """Whether products of bfloat16 run in hardware: TPUs, and NVIDIA's GPUs from Ampere on."""
        return self.platform == "tpu" or self.capability >= (8, 0)


def local_device() -> Device:
    """The device of this process."""
    capability = getattr(jax.local_devices()[0], "compute_capability", "")
    numbers = re.fullmatch(r"(\d+)\.(\d+)", capability)  # an AMD GPU's is a name
    return Device(jax.default_backend(), (int(numbers[1]), int(numbers[2])) if numbers else (0, 0))


def make_network(config: ml_collections.ConfigDict, kernels: models.KernelForm = "auto") -> Network:
    """The network of config.model and of the fields that say how slices become its input.

    Nothing is computed: `params` and `stats` are shapes. `kernels` as in `models.create`. Raises
    InputError for an option that the model does not have or can't follow.
    """
    graph, params, stats = split_model(nnx.eval_shape(lambda: make_model(config, kernels)))
    prepare = functools.partial(
        transform,
        image_size=config.model.image_size,
        channels=config.model.channels,
        windows=tuple((float(low), float(high)) for low, high in config.windows),
        mean=tuple(config.mean),
        std=tuple(config.std),
        noise=config.augment.noise > 0,
        head_threshold=make_crop(config).head_threshold,
    )
    return Network(graph, params, stats, prepare)


def make_model(config: ml_collections.ConfigDict, kernels: models.KernelForm = "auto") -> DualTask:
    """The dual-task model of config.model, its parameters drawn from config.seed."""
    options = config.model.to_dict()
    options.pop("tokens", None)  # a rule for the input, not an option of the model
    if (tissue := make_tissue(config)) is not None:
        windows = tuple(config.windows)[: config.model.channels]
        options["tissue"] = tissue.of_input(windows, tuple(config.mean), tuple(config.std))
    dtype = compute_dtype(config)
    options.pop("attention", None)
    requested = config.model.get("attention", "auto")  # the field is newer than the first runs
    if requested == "cudnn" and kernels == "auto" and has_cudnn_attention(config):
        options["attention"] = "cudnn"
    key, name = jax.random.key(config.seed), options.pop("name")
    return models.create(name, key=key, kernels=kernels, dtype=dtype, **options)


def compute_dtype(config: ml_collections.ConfigDict) -> type:
    """The type that the model computes in: config.dtype, or by 'auto' what suits the device.

    That is bfloat16 where it runs in hardware, float32 elsewhere.
    """
    if config.dtype == "auto":
        return jnp.bfloat16 if local_device().has_bfloat16 else jnp.float32
    return jnp.dtype(config.dtype).type


def has_cudnn_attention(config: ml_collections.ConfigDict) -> bool:
    """Whether this device computes the model's attention by cuDNN, where that is asked for."""
    device = local_device()
    suits = device.capability >= (8, 0) and compute_dtype(config) == jnp.bfloat16
    return suits and config.model.name.startswith("vit")


def make_tissue(config: ml_collections.ConfigDict) -> Tissue | None:
    """The rule of config.model.tokens; None where all patches count.

    It has two users: `data.packing` lays out batches on the host by it, for training, validation
    and evaluation; the ViT's own option `tissue` masks patches on the device, of whole images, for
    prediction, heat maps and export. Raises InputError for a rule that the model can't follow.
    """
    tokens = config.model.get("tokens", "all")  # the field is newer than the first runs
    if tokens not in ("all", "tissue"):
        raise InputError(f"config.model.tokens={tokens!r}: it is 'all' or 'tissue'")
    if tokens == "all":
        return None
    patch = models.patch_size(config.model.name)
    if patch is None:
        raise InputError(
            f"config.model.tokens='tissue': {config.model.name} needs whole images; take 'all'"
        )
    head_crop = make_crop(config).head_threshold is not None
    rule = config.tissue
    return Tissue(config.model.image_size, patch, rule.threshold, rule.margin, head_crop)


def make_crop(config: ml_collections.ConfigDict) -> Crop:
    """The part of a stored slice that the model sees. Raises InputError for a bad config.crop."""
    kind = config.get("crop", "centre")  # the field is newer than the first runs
    if kind not in ("centre", "head"):
        raise InputError(f"config.crop={kind!r}: it is 'centre' or 'head'")
    return Crop(config.model.image_size, config.tissue.threshold if kind == "head" else None)
