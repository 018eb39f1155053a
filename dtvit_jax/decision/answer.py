"""The answer for a slice and for a study; keys are pseudonyms, so it holds no identity."""

import dataclasses

ICH, NO_ICH, UNCERTAIN = "ich", "no ich", "uncertain"
"""The decisions."""


@dataclasses.dataclass(frozen=True)
class SliceAnswer:
    """The answer for one slice.

    Attributes:
      key: the slice's pseudonym.
      file: index of its file in the study's list of sources.
      frame: index of its frame in the file, from 0; None where the file is one image.
      position_mm: along the slice normal; None where the source does not state it.
      p_hemorrhage: calibrated, 0 to 1.
      p_location: calibrated, given ICH, in the order of records.LOCATIONS; they sum to 1.
      decision: 'ich', 'no ich' or 'uncertain', at the operating point for slices.
      outlier: distance from the training slices (`outlier`); above 1 the answer is 'uncertain',
        and the study's answer does not count the slice.
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
    """The answer for one study, by the model's aggregation and operating point.

    Attributes:
      key, subject: pseudonyms.
      slices: in order of position.
      p_hemorrhage, p_location: as in SliceAnswer, of the study; None where no slice counts.
      decision: 'ich', 'no ich' or 'uncertain'.
      location: one of records.LOCATIONS where the decision is 'ich', else empty.
      point, threshold: the operating point's name and its threshold on p_hemorrhage.
      reasons: why the answer is uncertain, in words; empty otherwise.
      remarks: what the answer leaves out, in words, whatever the decision.
    """

    key: str
    subject: str
    slices: tuple[SliceAnswer, ...]
    p_hemorrhage: float | None
    p_location: tuple[float, float, float] | None
    decision: str
    location: str
    point: str
    threshold: float
    reasons: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ModelIdentity:
    """The model that answered: its name, the program's version, and the weights' SHA-256."""

    name: str
    version: str
    weights_sha256: str
