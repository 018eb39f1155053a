"""Wrong slices by subject, the most confident errors first."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Shaped

from data_builder.records import LOCATIONS
from dtvit_jax.decision.predictions import Predictions
from dtvit_jax.evaluation.summary import has_location


@dataclasses.dataclass(frozen=True)
class SliceError:
    """A wrong decision on a slice; p: the probability of the predicted class, 0 to 1."""

    key: str
    truth: str
    predicted: str
    p: float


@dataclasses.dataclass(frozen=True)
class SubjectErrors:
    """A subject's wrong slices, the most confident first; slices: how many it has in all."""

    subject: str
    slices: int
    errors: tuple[SliceError, ...]


def hemorrhage_errors(predictions: Predictions, threshold: float = 0.5) -> list[SubjectErrors]:
    """Finds the slices of known truth on the wrong side of the threshold."""
    ich = predictions.p_hemorrhage >= threshold
    wrong = (predictions.hemorrhage >= 0) & (ich != (predictions.hemorrhage == 1))
    p = np.where(ich, predictions.p_hemorrhage, 1 - predictions.p_hemorrhage)
    names = np.array(["normal", "ICH"])
    truth = names[(predictions.hemorrhage == 1).astype(int)]
    return _by_subject(predictions, wrong, truth, names[ich.astype(int)], p)


def location_errors(predictions: Predictions) -> list[SubjectErrors]:
    """Finds the ICH slices of known location for which another location has a higher p."""
    located = has_location(predictions)
    predicted = np.where(located, np.nan_to_num(predictions.p_location).argmax(axis=1), 0)
    names = np.array(LOCATIONS)
    p = predictions.p_location[np.arange(len(predictions)), predicted]
    wrong = located & (predicted != predictions.location)
    return _by_subject(predictions, wrong, names[predictions.location], names[predicted], p)


def _by_subject(
    predictions: Predictions,
    wrong: Bool[np.ndarray, " n"],
    truth: Shaped[np.ndarray, " n"],
    predicted: Shaped[np.ndarray, " n"],
    p: Float[np.ndarray, " n"],
) -> list[SubjectErrors]:
    groups: dict[str, list[SliceError]] = {}
    rows = np.flatnonzero(wrong)
    for row in rows[np.lexsort((predictions.key[rows], -p[rows]))]:
        error = SliceError(
            str(predictions.key[row]), str(truth[row]), str(predicted[row]), float(p[row])
        )
        groups.setdefault(str(predictions.subject[row]), []).append(error)
    return [
        SubjectErrors(subject, int((predictions.subject == subject).sum()), tuple(errors))
        for subject, errors in groups.items()
    ]
