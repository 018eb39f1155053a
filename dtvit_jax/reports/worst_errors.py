"""The slices a model was most wrong about: most confident first, subject by subject."""

import dataclasses

import numpy as np

from data_builder.records import LOCATIONS
from dtvit_jax.decision.predictions import Predictions
from dtvit_jax.evaluation.summary import has_location


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A wrong call. p: the probability that the model gave to what it called, 0 to 1."""

    key: str
    truth: str
    called: str
    p: float


@dataclasses.dataclass(frozen=True)
class SubjectMistakes:
    """A subject's wrong slices, most confident first, of as many as `slices` in all."""

    subject: str
    slices: int
    mistakes: tuple[Mistake, ...]


def hemorrhage_mistakes(predictions: Predictions, threshold: float = 0.5) -> list[SubjectMistakes]:
    """Slices of known truth on the wrong side of the threshold."""
    called = predictions.p_hemorrhage >= threshold
    wrong = (predictions.hemorrhage >= 0) & (called != (predictions.hemorrhage == 1))
    p = np.where(called, predictions.p_hemorrhage, 1 - predictions.p_hemorrhage)
    names = np.array(["normal", "ICH"])
    truth = names[(predictions.hemorrhage == 1).astype(int)]
    return _by_subject(predictions, wrong, truth, names[called.astype(int)], p)


def location_mistakes(predictions: Predictions) -> list[SubjectMistakes]:
    """True ICH slices of known location to which another location seemed likelier."""
    rows = has_location(predictions)
    called = np.where(rows, np.nan_to_num(predictions.p_location).argmax(axis=1), 0)
    names = np.array(LOCATIONS)
    p = predictions.p_location[np.arange(len(predictions)), called]
    wrong = rows & (called != predictions.location)
    return _by_subject(predictions, wrong, names[predictions.location], names[called], p)


def _by_subject(
    predictions: Predictions,
    wrong: np.ndarray,
    truth: np.ndarray,
    called: np.ndarray,
    p: np.ndarray,
) -> list[SubjectMistakes]:
    groups: dict[str, list[Mistake]] = {}
    rows = np.flatnonzero(wrong)
    for row in rows[np.lexsort((predictions.key[rows], -p[rows]))]:
        mistake = Mistake(
            str(predictions.key[row]), str(truth[row]), str(called[row]), float(p[row])
        )
        groups.setdefault(str(predictions.subject[row]), []).append(mistake)
    return [
        SubjectMistakes(subject, int((predictions.subject == subject).sum()), tuple(mistakes))
        for subject, mistakes in groups.items()
    ]
