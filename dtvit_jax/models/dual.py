"""The dual-task network: one encoder, two heads (arXiv 2405.06814, section 3.2)."""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from data_builder.errors import InputError
from dtvit_jax.models.layers import dropout
from dtvit_jax.models.packed import Packing
from dtvit_jax.models.vit import ViT


@runtime_checkable
class Encoder(Protocol):
    """Images to features; `features` is their number."""

    features: int

    def __call__(self, images: Array, *, key: Array | None = None) -> Array: ...


class Head(nnx.Module):
    """Features to logits: Linear(d, d/2), ReLU, Dropout, Linear(d/2, classes); or one Linear.

    It computes in float32 whatever the encoder's type.
    """

    def __init__(self, features: int, classes: int, kind: str, rate: float, *, rngs: nnx.Rngs):
        if kind not in ("mlp", "linear"):
            raise InputError(f"model option head={kind!r}: it is one of mlp, linear")
        hidden = features // 2
        self.hidden = nnx.Linear(features, hidden, rngs=rngs) if kind == "mlp" else None
        self.out = nnx.Linear(hidden if kind == "mlp" else features, classes, rngs=rngs)
        self.rate = rate

    def __call__(
        self, x: Float[Array, "batch features"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch classes"]:
        x = x.astype(jnp.float32)
        if self.hidden is not None:
            x = dropout(jax.nn.relu(self.hidden(x)), self.rate, key)
        return self.out(x)


class DualTask(nnx.Module):
    """An encoder and two heads: is there a hemorrhage, and where.

    With 3 location classes (`data_builder.records.LOCATIONS`) the second answer is given
    hemorrhage: for a slice called normal it means nothing, and neither loss nor metrics nor
    prediction read it. With 4, as in the published code, the last class is 'normal'.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        location_classes: int = 3,
        head: str = "mlp",
        head_dropout: float = 0.1,
        rngs: nnx.Rngs,
    ) -> None:
        if location_classes not in (3, 4):
            raise InputError(
                f"model option location_classes={location_classes}: it is 3, or 4 with 'normal'"
            )
        if not 0 <= head_dropout < 1:
            raise InputError(f"model option head_dropout={head_dropout}: at least 0 and below 1")
        self.encoder = encoder
        self.hemorrhage = Head(encoder.features, 2, head, head_dropout, rngs=rngs)
        self.location = Head(encoder.features, location_classes, head, head_dropout, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "batch rows columns channels"],
        *,
        packing: Packing | None = None,
        key: Key[Array, ""] | None = None,
        train_encoder: bool = True,
    ) -> tuple[Float[Array, "batch 2"], Float[Array, "batch locations"]]:
        """Logits of (no hemorrhage, hemorrhage) and of the location, float32.

        A `key` means training: dropout, and batch statistics where the encoder has BatchNorm
        (its running statistics, the `nnx.BatchStat` of this module, are then updated in place).
        Without `train_encoder` that goes for the heads alone; the encoder is as in inference.
        With a `packing` (ViT) only the patches that it keeps are computed.
        """
        keys = (None,) * 3 if key is None else tuple(jax.random.split(key, 3))
        keys = keys if train_encoder else (None, *keys[1:])
        if packing is None:
            features = self.encoder(images, key=keys[0])
        else:
            assert isinstance(self.encoder, ViT)  # make_tissue refuses others
            features = self.encoder.encode_packed(images, packing, key=keys[0])
        return self.hemorrhage(features, keys[1]), self.location(features, keys[2])
