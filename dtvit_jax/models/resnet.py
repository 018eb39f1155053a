"""ResNet (arXiv 1512.03385), torchvision's variant: the stride is in the 3x3 convolution."""

from typing import Unpack

import jax
from flax import nnx
from jaxtyping import Array, Float

from dtvit_jax.models.cnn import CNN
from dtvit_jax.models.layers import BatchNorm, Conv, LayerOptions


class _Residual(nnx.Module):
    """The shortcut of a block: the identity, or a 1x1 convolution where the shape changes."""

    downsample: nnx.Dict | None

    def add_shortcut(
        self, channels: int, out: int, stride: int, **options: Unpack[LayerOptions]
    ) -> None:
        """Called last: parameters take random keys in the order of construction."""
        if stride == 1 and channels == out:
            self.downsample = None
        else:
            projection = Conv(channels, out, 1, stride=stride, bias=False, **options)
            self.downsample = nnx.Dict({"0": projection, "1": BatchNorm(out)})

    def shortcut(
        self, x: Float[Array, "batch rows columns channels"], training: bool
    ) -> Float[Array, "batch new_rows new_columns out"]:
        if self.downsample is None:
            return x
        return self.downsample["1"](self.downsample["0"](x), training)


class BasicBlock(_Residual):
    """Two 3x3 convolutions, added to the shortcut."""

    expansion = 1

    def __init__(
        self, channels: int, width: int, stride: int, **options: Unpack[LayerOptions]
    ) -> None:
        self.conv1 = Conv(channels, width, 3, stride=stride, padding=1, bias=False, **options)
        self.bn1 = BatchNorm(width)
        self.conv2 = Conv(width, width, 3, padding=1, bias=False, **options)
        self.bn2 = BatchNorm(width)
        self.add_shortcut(channels, width, stride, **options)

    def __call__(
        self, x: Float[Array, "batch rows columns channels"], training: bool
    ) -> Float[Array, "batch new_rows new_columns width"]:
        y = jax.nn.relu(self.bn1(self.conv1(x), training))
        y = self.bn2(self.conv2(y), training)
        return jax.nn.relu(y + self.shortcut(x, training))


class Bottleneck(_Residual):
    """1x1 to `width` channels, 3x3, 1x1 to four times as many, added to the shortcut."""

    expansion = 4

    def __init__(
        self, channels: int, width: int, stride: int, **options: Unpack[LayerOptions]
    ) -> None:
        self.conv1 = Conv(channels, width, 1, bias=False, **options)
        self.bn1 = BatchNorm(width)
        self.conv2 = Conv(width, width, 3, stride=stride, padding=1, bias=False, **options)
        self.bn2 = BatchNorm(width)
        self.conv3 = Conv(width, 4 * width, 1, bias=False, **options)
        self.bn3 = BatchNorm(4 * width)
        self.add_shortcut(channels, 4 * width, stride, **options)

    def __call__(
        self, x: Float[Array, "batch rows columns channels"], training: bool
    ) -> Float[Array, "batch new_rows new_columns expanded"]:
        y = jax.nn.relu(self.bn1(self.conv1(x), training))
        y = jax.nn.relu(self.bn2(self.conv2(y), training))
        y = self.bn3(self.conv3(y), training)
        return jax.nn.relu(y + self.shortcut(x, training))


DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}
"""The kind of block and the number of blocks in each of four stages (Table 1)."""


class ResNet(CNN):
    """ResNet of `depth` 18, 34 or 50 without its classifier: images to 512 or 2048 features."""

    def __init__(
        self,
        depth: int,
        *,
        image_size: int = 224,
        channels: int = 3,
        **options: Unpack[LayerOptions],
    ) -> None:
        block, counts = DEPTHS[depth]
        super().__init__(f"resnet{depth}", 512 * block.expansion, image_size, 32, **options)
        self.conv1 = Conv(channels, 64, 7, stride=2, padding=3, bias=False, **options)
        self.bn1 = BatchNorm(64)
        width = 64
        stages = []
        for stage, count in enumerate(counts):
            blocks = []
            for i in range(count):
                stride = 2 if stage and not i else 1
                blocks.append(block(width, 64 << stage, stride, **options))
                width = (64 << stage) * block.expansion
            stages.append(nnx.List(blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def stem(
        self, images: Float[Array, "batch rows columns channels"], training: bool = False
    ) -> Float[Array, "batch new_rows new_columns 64"]:
        """The input of the first stage: a quarter of the rows and columns."""
        x = self.conv1(images.astype(self.dtype))
        return self.max_pool(jax.nn.relu(self.bn1(x, training)), 3, 2, padding=1)

    def last_map(
        self, images: Float[Array, "batch rows columns channels"], training: bool = False
    ) -> Float[Array, "batch map_rows map_columns features"]:
        """The last stage's output: a thirty-second of the rows and columns."""
        x = self.stem(images, training)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = block(x, training)
        return x
