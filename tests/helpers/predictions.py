"""Synthetic predictions of synthetic subjects, whose slices are correlated."""

import numpy as np

from dtvit_jax.decision.predictions import Predictions

LOCATIONS = (-1, 0, -1, 1, -1, 0, 2, 0, 1, -1)  # of ten subjects four are normal


def make(
    subjects: int = 20, slices: int = 10, seed: int = 0, skill: float = 2.0, split: str = "test"
) -> Predictions:
    """Makes a table: slices 3 to 6 of an ICH subject are ICH; skill: distance of the classes."""
    rng = np.random.default_rng(seed)
    of_subject = np.array(LOCATIONS)[np.arange(subjects) % len(LOCATIONS)]
    subject_location = np.repeat(of_subject, slices)
    number = np.tile(np.arange(slices), subjects)
    subject = np.repeat(np.arange(subjects), slices)
    truth = (subject_location >= 0) & (number >= 3) & (number <= 6)
    location = np.where(truth, subject_location, -1)
    z = skill * (2 * truth - 1) + rng.normal(size=subjects)[subject] + rng.normal(size=len(subject))
    logits = rng.normal(size=(subjects, 3))[subject] + rng.normal(size=(len(subject), 3))
    logits[truth, location[truth]] += skill
    odds = np.exp(logits)
    return Predictions(
        key=np.array([f"sli-{s:03d}-{n:02d}" for s, n in zip(subject, number, strict=True)]),
        subject=np.array([f"sub-{s:03d}" for s in subject]),
        hemorrhage=truth.astype(np.int8),
        location=location.astype(np.int8),
        p_hemorrhage=1 / (1 + np.exp(-z)),
        p_location=odds / odds.sum(axis=1, keepdims=True),
        split=np.full(len(subject), split),
        study=np.array([f"stu-{s:03d}" for s in subject]),
        fold=np.zeros(len(subject), np.int32),
    )


def replaced(predictions: Predictions, **columns: np.ndarray) -> Predictions:
    """Returns a copy with other columns."""
    return Predictions(**(vars(predictions) | columns))
