"""Samples synthetic hemorrhages: their site, size and shape, and their mass effect.

Coordinates are those of `anatomy`. Phantom results say nothing about patients.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from data_builder.phantom.anatomy import cavity, infratentorial
from data_builder.phantom.head import DIFFICULTY, Head, Points, Waves, sample_waves


class Site(NamedTuple):
    """A site of bleeds of one location; x is mirrored at random."""

    share: float  # of the location's bleeds
    centre: tuple[float, float, float]  # mm; of a lobe: the start of the ray to its surface
    largest_ml: float  # an upper limit on the volume that is drawn
    shape: tuple[float, float, float]  # relative half lengths along x, y and z
    toward: tuple[float, float, float] | None = None  # of a lobe: the end of that ray


_ROUND = (1.0, 1.1, 0.95)
SITES: dict[str, dict[str, Site]] = {
    "deep": {
        "putamen": Site(0.55, (27.0, 1.0, 3.0), 60.0, (0.75, 1.35, 1.0)),
        "thalamus": Site(0.33, (12.5, 12.0, 7.0), 25.0, (0.9, 1.1, 1.0)),
        "caudate": Site(0.12, (14.0, -19.0, 10.0), 12.0, (0.9, 1.1, 1.0)),
    },
    "lobar": {
        "frontal": Site(0.3, (16.0, -25.0, 28.0), 60.0, _ROUND, (38.0, -75.0, 42.0)),
        "parietal": Site(0.3, (18.0, 25.0, 34.0), 60.0, _ROUND, (52.0, 60.0, 62.0)),
        "temporal": Site(0.25, (40.0, -4.0, -18.0), 40.0, (0.85, 1.3, 0.9), (75.0, -4.0, -16.0)),
        "occipital": Site(0.15, (20.0, 40.0, 16.0), 40.0, _ROUND, (32.0, 90.0, 14.0)),
    },
    "subtentorial": {
        "cerebellum": Site(0.55, (25.0, 48.0, -32.0), 25.0, (1.0, 1.05, 0.9)),
        "vermis": Site(0.15, (3.0, 52.0, -26.0), 12.0, (0.9, 1.1, 1.0)),
        "pons": Site(0.3, (2.0, 9.0, -28.0), 8.0, (1.1, 0.8, 1.0)),
    },
}


@dataclasses.dataclass(frozen=True)
class Bleed:
    """One hemorrhage of one subject; a later visit changes `radii` and `oedema_mm`."""

    location: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    hu: float
    oedema_mm: float  # 0: none
    ragged: Waves
    fine: Waves

    @property
    def radius(self) -> float:
        """Radius in mm of the ball with the same volume."""
        return float(np.cbrt(self.radii[0] * self.radii[1] * self.radii[2]))


def sample_bleed(rng: np.random.Generator, head: Head, location: str, visit: int) -> Bleed:
    """Draws a bleed at one of the location's sites.

    The draws do not depend on `visit`: at visit 1 the same bleed is a little larger or smaller,
    and its oedema wider.
    """
    d = DIFFICULTY
    sites = SITES[location]
    site = sites[str(rng.choice(list(sites), p=[s.share for s in sites.values()]))]
    low, high = d.bleed_ml
    ml = float(np.exp(rng.uniform(np.log(low), np.log(min(high, site.largest_ml)))))
    growth = rng.uniform(0.85, 1.35)
    radius = float(np.cbrt(ml * (growth if visit else 1.0) * 1000 * 3 / (4 * np.pi)))
    shape = np.array(site.shape) * rng.uniform(0.85, 1.15, 3)
    shape /= np.cbrt(shape.prod())
    side = 1.0 if rng.uniform() < 0.5 else -1.0
    centre = np.array(site.centre)
    jitter = rng.normal(0, 1, 3)
    if site.toward is None:
        centre += jitter * 1.5
    else:
        start, end = centre, np.array(site.toward) + jitter * 9
        t = np.linspace(0, 1, 101, dtype=np.float32)
        ray = Points(*(float(a) + t * float(b - a) for a, b in zip(start, end, strict=True)))
        # Lobar blood reaches the cortex, or nearly: its centre is about one radius deep.
        depth = head.gap_mm + 2 + max(5.0, radius * rng.uniform(0.7, 0.95))
        centre = start + float(t[np.argmin(np.abs(-cavity(ray) - depth))]) * (end - start)
    oedema = rng.uniform(*d.oedema_mm) if rng.uniform() < d.oedema_share else 0.0
    x, y, z = centre.tolist()
    rx, ry, rz = (radius * shape).tolist()
    return Bleed(
        location=location,
        centre=(side * x, y, z),
        radii=(rx, ry, rz),
        hu=rng.uniform(d.bleed_hu[0] + 2, d.bleed_hu[1] - 2),
        oedema_mm=oedema * (1.3 if visit else 1.0),
        ragged=sample_waves(rng, 10, 1.6 * radius),
        fine=sample_waves(rng, 12, 7.0),
    )


def room(
    p: Points, bowl: Float32[np.ndarray, "*points"], head: Head, location: str
) -> Float32[np.ndarray, "*points"]:
    """Field of the space for a bleed of this location: brain on its side of the tentorium.

    `bowl` is the `cavity` at `p`. Ventricles are included: they do not stop blood.
    """
    under = infratentorial(p)
    if location == "subtentorial":
        return np.maximum(bowl + head.gap_mm, under + 2)
    if location == "deep":  # off the cortex, and off the temporal lobe below
        bowl = np.maximum(bowl + 9, -16 - p.z)
    return np.maximum(bowl + head.gap_mm, 2 - under)


def blob(p: Points, bleed: Bleed) -> Float32[np.ndarray, "*points"]:
    """Field of the bleed's ragged body, before it is limited to `room`."""
    r = bleed.radius
    q = np.sqrt(
        ((p.x - bleed.centre[0]) / bleed.radii[0]) ** 2
        + ((p.y - bleed.centre[1]) / bleed.radii[1]) ** 2
        + ((p.z - bleed.centre[2]) / bleed.radii[2]) ** 2
    )
    ragged = DIFFICULTY.bleed_raggedness * r * bleed.ragged(p) + 0.9 * bleed.fine(p)
    return (q - 1) * r + ragged


def push(p: Points, bleed: Bleed) -> Points:
    """The points of the healthy brain that the bleed displaces to `p`: its mass effect."""
    x, y, z = (a - c for a, c in zip(p, bleed.centre, strict=True))
    r2 = x * x + y * y + z * z
    r = np.sqrt(r2 + 1)
    amount = 0.28 * bleed.radius * np.exp(-r2 / (2 * (1.5 * bleed.radius + 8) ** 2)) / r
    return Points(p.x - amount * x, p.y - amount * y, p.z - amount * z)
