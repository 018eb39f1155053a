"""Defines a synthetic head: its tissues, how hard phantoms are, and what varies between heads.

Nothing here was measured on a patient, and phantom results say nothing about patients.
"""

import dataclasses
import enum
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32


class Tissue(enum.IntEnum):
    """The tissue that fills most of a voxel."""

    PADDING = 0  # outside the scanner's circular field: no measurement at all
    AIR = 1
    HOLDER = 2
    SCALP = 3  # skin, muscle, ears, eyes
    FAT = 4
    SKULL = 5
    AIR_CELL = 6  # air inside the head: sinuses, mastoid
    CSF = 7
    GREY = 8
    WHITE = 9
    DURA = 10  # falx, tentorium, and the venous sinuses in them
    CALCIFICATION = 11
    OEDEMA = 12
    BLEED = 13


HEAD_CLASSES = tuple(t for t in Tissue if t not in (Tissue.PADDING, Tissue.AIR, Tissue.HOLDER))
"""The classes of the head: cleaning should keep them."""


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """How hard phantoms are: chosen before any model was trained on them, never tuned to a score.

    Ranges are (low, high) of a uniform draw, unless a comment states another.
    """

    # Clotted blood is 60 to 80 HU (the textbook's range); brain is 25 to 40, dura about 60.
    bleed_hu: tuple[float, float] = (60.0, 80.0)
    # Log-uniform. 2 ml (16 mm across) is a small bleed, detected late; over 60 ml mostly fatal.
    bleed_ml: tuple[float, float] = (2.0, 60.0)
    # Height of the ragged edge as a share of the bleed's radius.
    bleed_raggedness: float = 0.16
    oedema_share: float = 0.6  # of bleeds with a dark rim: it grows over days, so not all have it
    oedema_mm: tuple[float, float] = (2.0, 7.0)
    # A slice counts as hemorrhage if this many pixels have this coverage or more: it is visible.
    bleed_coverage: float = 0.35
    bleed_pixels: int = 40
    # Standard deviation of a routine head scan's noise in brain, correlated over about a pixel.
    noise_hu: tuple[float, float] = (4.0, 6.0)
    # Depth of the dark band between the petrous bones: from hardly visible to as dark as oedema.
    streak_hu: tuple[float, float] = (6.0, 18.0)
    # Shares of heads with bright structures that are no bleed. Shares grow with age.
    calcified_pineal: float = 0.7
    calcified_choroid: float = 0.6
    calcified_falx: float = 0.35
    calcified_ganglia: float = 0.12
    calcification_hu: tuple[float, float] = (75.0, 260.0)  # its low end overlaps with blood
    age_years: tuple[float, float] = (22.0, 90.0)
    # The pose in the scanner: standard deviations of turn, roll and nod, and of the centre.
    turn_degrees: float = 7.0
    tilt_degrees: float = 4.0
    off_centre_mm: float = 5.0
    cut_by_field: float = 0.06  # share of studies with the head over the field's edge
    gantry_tilted: float = 0.3  # share of studies with a tilted gantry


DIFFICULTY = Difficulty()


class Points(NamedTuple):
    """Head coordinates of sample points, in mm; the arrays share one shape."""

    x: Float32[np.ndarray, "*points"]
    y: Float32[np.ndarray, "*points"]
    z: Float32[np.ndarray, "*points"]

    def folded(self) -> "Points":
        """The points with both sides folded onto the left, for structures that come in pairs."""
        return self._replace(x=np.abs(self.x))


@dataclasses.dataclass(frozen=True)
class Waves:
    """A smooth random field of mean 0 and variance 1: a sum of plane waves of similar length."""

    vectors: tuple[tuple[float, float, float], ...]
    phases: tuple[float, ...]

    def __call__(self, p: Points) -> Float32[np.ndarray, "*points"]:
        """The field's value at each point."""
        total = np.zeros_like(p.x)
        for (kx, ky, kz), phase in zip(self.vectors, self.phases, strict=True):
            total += np.cos(kx * p.x + ky * p.y + kz * p.z + phase)
        return total * float(np.sqrt(2 / len(self.phases)))


def sample_waves(
    rng: np.random.Generator, count: int, length_mm: float, stretch_z: float = 1.0
) -> Waves:
    """Samples waves in random directions, of 0.8 to 1.3 times `length_mm`, longer along z."""
    direction = rng.standard_normal((count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    direction[:, 2] /= stretch_z
    k = direction * (2 * np.pi / (length_mm * rng.uniform(0.75, 1.3, (count, 1))))
    return Waves(
        tuple((a, b, c) for a, b, c in k.tolist()),
        tuple(rng.uniform(0, 2 * np.pi, count).tolist()),
    )


@dataclasses.dataclass(frozen=True)
class Head:
    """One synthetic person: all that is the same at every visit."""

    age: int
    sex: str
    scale: tuple[float, float, float]
    skull_mm: float
    scalp_mm: float
    bone_hu: float
    grey_hu: float
    white_hu: float
    ventricle: float  # size, 1 at about 50 years
    gap_mm: float  # CSF between brain and skull
    sulcus_mm: float  # half width of a sulcus at the surface
    calcified: frozenset[str]
    calcification_hu: float
    falx_patches: tuple[tuple[float, float, float, float], ...]  # y, z, and half lengths in mm
    frontal_sinus: float
    warp: tuple[Waves, ...]  # along x, y and z
    folds: Waves
    folia: Waves
    cells: Waves


def sample_head(rng: np.random.Generator) -> Head:
    """Samples a person: age first, because the size of ventricles and sulci depends on it."""
    d = DIFFICULTY
    age = int(rng.uniform(*d.age_years))
    old = (age - 22) / 68
    chance = {
        "pineal": d.calcified_pineal * (0.6 + 0.5 * old),
        "choroid": d.calcified_choroid * (0.4 + 0.8 * old),
        "falx": d.calcified_falx * (0.4 + 1.0 * old),
        "ganglia": d.calcified_ganglia * (0.3 + 1.2 * old),
    }
    patches = [
        (rng.uniform(-70, 60), rng.uniform(35, 65), rng.uniform(4, 12), rng.uniform(4, 8))
        for _ in range(int(rng.integers(1, 4)))
    ]
    size = rng.normal(1.0, 0.025)
    return Head(
        age=age,
        sex="FM"[int(rng.integers(2))],
        scale=(size * rng.normal(1, 0.025), size * rng.normal(1, 0.025), size),
        skull_mm=rng.uniform(5.0, 7.5),
        scalp_mm=rng.uniform(4.0, 7.0),
        bone_hu=rng.uniform(850, 1250),
        grey_hu=rng.uniform(36, 39),
        white_hu=rng.uniform(27, 30),
        ventricle=(0.7 + 0.75 * old) * float(np.exp(rng.normal(0, 0.12))),
        gap_mm=0.8 + 2.6 * old * rng.uniform(0.7, 1.3),
        sulcus_mm=0.3 + 0.8 * old * rng.uniform(0.7, 1.3),
        calcified=frozenset(k for k, share in chance.items() if rng.uniform() < share),
        calcification_hu=rng.uniform(*d.calcification_hu),
        falx_patches=tuple(patches),
        frontal_sinus=rng.uniform(0.4, 1.2),
        warp=tuple(sample_waves(rng, 4, 130.0) for _ in range(3)),
        folds=sample_waves(rng, 24, 19.0, 1.5),
        folia=sample_waves(rng, 12, 9.0),
        cells=sample_waves(rng, 14, 8.0),
    )
