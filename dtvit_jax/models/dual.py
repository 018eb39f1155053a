"""The dual-task network: one encoder, two heads (arXiv 2405.06814, section 3.2)."""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from data_builder.errors import InputError
from dtvit_jax.models.layers import check_rate, dropout
from dtvit_jax.models.packed import Packing
from dtvit_jax.models.vit import ViT


@runtime_checkable  # the tests check annotations at run time
class Encoder(Protocol):
    """Maps images to feature vectors; `features` is their width."""

    features: int

    def __call__(
        self,
        images: Float[Array, "batch rows columns channels"],
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch features"]: ...


class Head(nnx.Module):
    """Features to logits, in float32 whatever the encoder's type.

    kind: 'mlp', Linear(d, d/2), ReLU, dropout, Linear(d/2, classes), or 'linear', one Linear.
    """

    def __init__(
        self, features: int, classes: int, kind: str, rate: float, *, rngs: nnx.Rngs
    ) -> None:
        if kind not in ("mlp", "linear"):
            raise InputError(f"model option head={kind!r}: give one of mlp, linear")
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
    """An encoder and two heads: whether there is a hemorrhage, and where.

    With 3 location classes (`data_builder.records.LOCATIONS`) the location is conditional on
    hemorrhage: loss, metrics and prediction ignore it for a normal slice. With 4, as in the
    published code, the last class is 'normal'.
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
                f"model option location_classes={location_classes}: give 3, or 4 with 'normal'"
            )
        check_rate("head_dropout", head_dropout)
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

        Args:
            images: normalised model input.
            packing: compute only the patches that it keeps (ViT); None: whole images.
            key: randomness of dropout, given in training only. With it BatchNorm uses the batch's
                statistics, and updates its `nnx.BatchStat` in place.
            train_encoder: False runs the encoder as in inference, and trains the heads only.
        """
        keys = (None,) * 3 if key is None else tuple(jax.random.split(key, 3))
        keys = keys if train_encoder else (None, *keys[1:])
        if packing is None:
            features = self.encoder(images, key=keys[0])
        else:
            assert isinstance(self.encoder, ViT)  # training.network.make_tissue refuses others
            features = self.encoder.encode_packed(images, packing, key=keys[0])
        return self.hemorrhage(features, keys[1]), self.location(features, keys[2])
