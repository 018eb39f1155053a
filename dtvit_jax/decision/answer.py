"""What the program says of a slice and of a study. No identity is in it: keys are pseudonyms."""

import dataclasses

LOCATIONS = ("deep", "lobar", "subtentorial")
"""In the order of `p_location`."""


@dataclasses.dataclass(frozen=True)
class SliceAnswer:
    """One slice's answer.

    Attributes:
      key: the slice's pseudonym.
      file: place of its file in the study's list of sources.
      frame: its frame there, from 0; None where the file is one image.
      position_mm: along the slice normal; None where the source does not say.
      p_hemorrhage: calibrated, 0 to 1.
      p_location: calibrated, given ICH, in the order of LOCATIONS; they sum to 1.
      decision: 'ich', 'no ich' or 'uncertain', at the stored operating point of slices.
      outlier: how unlike the training slices it is; above 1 the answer is 'uncertain'.
    """

    key: str
    file: int
    frame: int | None
    position_mm: float | None
    p_hemorrhage: float
    p_location: tuple[float, float, float]
    decision: str
    outlier: float


@dataclasses.dataclass(frozen=True)
class StudyAnswer:
    """One study's answer, from its slices by the model's stored aggregation and operating point.

    Attributes:
      key, subject: pseudonyms.
      slices: in order of position.
      p_hemorrhage, p_location: as in SliceAnswer, of the study.
      decision: 'ich', 'no ich' or 'uncertain'.
      location: one of LOCATIONS where the decision is 'ich', else empty.
      point, threshold: the operating point's name and its threshold on p_hemorrhage.
      reasons: why it is uncertain, in words; empty otherwise.
    """

    key: str
    subject: str
    slices: tuple[SliceAnswer, ...]
    p_hemorrhage: float
    p_location: tuple[float, float, float]
    decision: str
    location: str
    point: str
    threshold: float
    reasons: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ModelIdentity:
    """Which model answered: its name, this program's version, and the weights' SHA-256."""

    name: str
    version: str
    weights_sha256: str
