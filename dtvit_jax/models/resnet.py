"""ResNet (arXiv 1512.03385), torchvision's variant: the stride is in the 3x3 convolution.

Modules are called as torchvision's, so that its weights need no table of names.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from dtvit_jax.models.layers import BatchNorm, check_side, conv, max_pool


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions beside the identity (or a 1x1 convolution where the shape changes)."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, *, dtype: Any, rngs: nnx.Rngs):
        options: dict[str, Any] = {"bias": False, "dtype": dtype, "rngs": rngs}
        self.conv1 = conv(channels, width, 3, stride=stride, padding=1, **options)
        self.bn1 = BatchNorm(width)
        self.conv2 = conv(width, width, 3, padding=1, **options)
        self.bn2 = BatchNorm(width)
        self.downsample = _shortcut(channels, width, stride, options)

    def __call__(
        self, x: Float[Array, "batch rows columns channels"], training: bool
    ) -> Float[Array, "batch new_rows new_columns width"]:
        y = jax.nn.relu(self.bn1(self.conv1(x), training))
        y = self.bn2(self.conv2(y), training)
        return jax.nn.relu(y + _identity(self.downsample, x, training))


class Bottleneck(nnx.Module):
    """1x1 down, 3x3, 1x1 up to four times the width, beside the identity."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, *, dtype: Any, rngs: nnx.Rngs):
        options: dict[str, Any] = {"bias": False, "dtype": dtype, "rngs": rngs}
        self.conv1 = conv(channels, width, 1, **options)
        self.bn1 = BatchNorm(width)
        self.conv2 = conv(width, width, 3, stride=stride, padding=1, **options)
        self.bn2 = BatchNorm(width)
        self.conv3 = conv(width, 4 * width, 1, **options)
        self.bn3 = BatchNorm(4 * width)
        self.downsample = _shortcut(channels, 4 * width, stride, options)

    def __call__(
        self, x: Float[Array, "batch rows columns channels"], training: bool
    ) -> Float[Array, "batch new_rows new_columns width"]:
        y = jax.nn.relu(self.bn1(self.conv1(x), training))
        y = jax.nn.relu(self.bn2(self.conv2(y), training))
        y = self.bn3(self.conv3(y), training)
        return jax.nn.relu(y + _identity(self.downsample, x, training))


def _shortcut(channels: int, out: int, stride: int, options: dict[str, Any]) -> Any:
    if stride == 1 and channels == out:
        return None
    return nnx.Dict({"0": conv(channels, out, 1, stride=stride, **options), "1": BatchNorm(out)})


def _identity(downsample: Any, x: Array, training: bool) -> Array:
    return x if downsample is None else downsample["1"](downsample["0"](x), training)


DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


class ResNet(nnx.Module):
    """ResNet of `depth` 18, 34 or 50 without its classifier: images to 512 or 2048 features."""

    def __init__(
        self,
        depth: int,
        *,
        image_size: int = 224,
        channels: int = 3,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_side(f"resnet{depth}", image_size, 32)
        block, counts = DEPTHS[depth]
        self.dtype = dtype
        self.conv1 = conv(channels, 64, 7, stride=2, padding=3, bias=False, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(64)
        width = 64
        stages = []
        for stage, count in enumerate(counts):
            blocks = []
            for i in range(count):
                stride = 2 if stage and not i else 1
                blocks.append(block(width, 64 << stage, stride, dtype=dtype, rngs=rngs))
                width = (64 << stage) * block.expansion
            stages.append(nnx.List(blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.features = width

    def stem(
        self, images: Float[Array, "batch rows columns channels"], training: bool = False
    ) -> Float[Array, "batch new_rows new_columns 64"]:
        """What comes before the first stage: a quarter of the rows and columns."""
        x = self.conv1(images.astype(self.dtype))
        return max_pool(jax.nn.relu(self.bn1(x, training)), 3, 2, padding=1)

    def last_map(
        self, images: Float[Array, "batch rows columns channels"], training: bool = False
    ) -> Float[Array, "batch _ _ features"]:
        """What the last stage gives: a thirty-second of the rows and columns."""
        x = self.stem(images, training)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = block(x, training)
        return x

    def from_map(
        self, last: Float[Array, "batch _ _ features"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch features"]:
        """Features from `last_map`: the means."""
        del key
        return jnp.mean(last, axis=(1, 2))

    def __call__(
        self,
        images: Float[Array, "batch rows columns channels"],
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch features"]:
        """Features. A `key` means training: batch statistics, and the running ones updated."""
        return self.from_map(self.last_map(images, key is not None), key)
