"""Words a probability or a threshold for a reader, who must never read a certain 1.000 or 0.000."""

import math

_NEAR = 1e-3
_NEAREST = 1e-6


def probability_text(p: float | None) -> str:
    """Three decimals; '> 0.999' and '< 0.001' beyond them, 'n/a' for None and nan. p: 0 to 1."""
    if p is None or math.isnan(p):
        return "n/a"
    if p > 1 - _NEAR:
        return f"> {1 - _NEAR:.3f}"
    return f"{p:.3f}" if p >= _NEAR else f"< {_NEAR:.3f}"


def threshold_text(threshold: float) -> str:
    """Three decimals, and near 0 or 1 as many as two digits of the distance to it need, up to 6.

    Nearer than 0.000001 it is '> 0.999999' or '< 0.000001'. threshold: 0 to 1.
    """
    distance = min(threshold, 1 - threshold)
    if distance >= _NEAR:
        return f"{threshold:.3f}"
    if distance < _NEAREST:
        return f"> {1 - _NEAREST:.6f}" if threshold > 0.5 else f"< {_NEAREST:.6f}"
    return f"{threshold:.{min(6, 1 - math.floor(math.log10(distance)))}f}"
