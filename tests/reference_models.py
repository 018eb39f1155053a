"""Random weights by name, for the reference implementations and for this package alike.

The stored references (tests/references) hold names, shapes and answers, not weights: those are
drawn again here, the same on every machine.
"""

import zlib

import numpy as np


def draw(names: list[str], shapes: list[tuple[int, ...]]) -> dict[str, np.ndarray]:
    """An array for each name, of a size that keeps activations near 1."""
    return {n: _draw(n, tuple(s)) for n, s in zip(names, shapes, strict=True)}


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    values = 2 * rng.random(shape, dtype=np.float32) - 1
    gain = name.endswith("running_var") or (len(shape) == 1 and name.endswith(("weight", "scale")))
    if gain:
        return 1 + 0.5 * values
    if len(shape) == 1 or name.endswith("bias"):
        return 0.1 * values
    if "pos" in name or "cls" in name or "class_token" in name:
        return values
    if "/" not in name:  # torch: [out, in, ...]
        fan_in = values.size // shape[0]
    else:  # Google: [..., in, out], attention's [in, heads, width] and [heads, width, out]
        fan_in = (
            shape[0]
            if name.split("/")[-2] in ("query", "key", "value")
            else (values.size // shape[-1])
        )
    return values * np.float32(np.sqrt(3 / fan_in))


def pictures(side: int, channels: int = 3) -> np.ndarray:
    """Two images [2, side, side, channels] with values near those of a normalised picture."""
    rng = np.random.default_rng(side)
    return (4 * rng.random((2, side, side, channels), dtype=np.float32) - 2).astype(np.float32)
