"""Checksums of a state, computed where its arrays lie; Orbax takes flipped bits as they are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def checksums(fields: dict[str, Any]) -> dict[str, int]:
    """A sum of each field's bits, computed where they lie; a changed bit changes it."""
    parts = jax.device_get(jax.tree.map(_bits, fields))
    return {name: sum(map(int, jax.tree.leaves(part))) % 2**32 for name, part in parts.items()}


def check(found: dict[str, Any], saved: dict[str, int]) -> None:
    """Raises ValueError where a field is not the one that `saved` was made of."""
    for name, value in checksums(found).items():
        if value != saved[name]:
            raise ValueError(f"the checksum of its {name} is another")


def _bits(x: Any) -> Any:
    if isinstance(x, np.ndarray):  # there is nothing to compile, and no device to copy it to
        bits = np.ascontiguousarray(x).reshape(-1).view(f"uint{8 * x.itemsize}")
        return bits.sum(dtype=np.uint32)
    return _bits_on_device(x)


@jax.jit
def _bits_on_device(x: jax.Array) -> jax.Array:
    kind = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(x, kind).sum(dtype=jnp.uint32)
