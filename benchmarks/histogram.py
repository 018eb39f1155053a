"""What acquisition and slice selection alone give: a gray histogram and a logistic regression.

Features of a slice at its own size: 32-bin gray histogram, mean, spread, share of tissue (> 10).
A model's figure that does not beat this row by a paired test is not distinguishable from it.
"""

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_builder.records import LOCATIONS, Record
from dtvit_jax.predictions import Predictions


def features(record: Record) -> np.ndarray:
    """35 numbers of one slice."""
    image = np.asarray(Image.open(record.image).convert("L"))
    histogram = np.bincount(image.ravel() >> 3, minlength=32) / image.size
    return np.array([*histogram, image.mean(), image.std(), (image > 10).mean()])


def predict(records: list[Record], x: np.ndarray, side_of: dict[str, str], fold: int):
    """Fits on the training side and predicts the test side of one fold."""
    sides = np.array([side_of[r.key] for r in records])
    hemorrhage = np.array([r.hemorrhage for r in records])
    location = np.array([LOCATIONS.index(r.location) if r.hemorrhage else -1 for r in records])
    train, test = sides == "train", np.flatnonzero(sides == "test")

    def fit(rows: np.ndarray, labels: np.ndarray):
        model = LogisticRegression(max_iter=5000, class_weight="balanced")
        return make_pipeline(StandardScaler(), model).fit(x[rows], labels[rows])

    p_location = fit(train & (hemorrhage == 1), location).predict_proba(x[test])
    return Predictions(
        key=np.array([records[i].key for i in test]),
        subject=np.array([records[i].subject for i in test]),
        hemorrhage=hemorrhage[test],
        location=location[test],
        p_hemorrhage=fit(train, hemorrhage).predict_proba(x[test])[:, 1],
        p_location=p_location,
        split=np.full(len(test), "test"),
        study=np.array([records[i].study for i in test]),
        fold=np.full(len(test), fold),
    )
