"""The baseline of an experiment: a gray histogram and a logistic regression.

It measures what acquisition and slice selection alone give, since it sees neither shape nor
position. A model whose figure is not above this row's by a paired test is not distinguishable from
it.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int, UInt8
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from dtvit_jax.data.shards import Shards, SliceNames, SliceSource
from dtvit_jax.decision.predictions import Predictions


def features(image: UInt8[np.ndarray, "rows columns"]) -> Float[np.ndarray, " 35"]:
    """Returns a slice's 32-bin gray histogram, mean, standard deviation and tissue share (> 10)."""
    histogram = np.bincount(image.ravel() >> 3, minlength=32) / image.size
    return np.array([*histogram, image.mean(), image.std(), (image > 10).mean()])


def fit(x: Float[np.ndarray, "n f"], labels: Int[np.ndarray, " n"]) -> Pipeline:
    """Fits a class-balanced logistic regression on standardised features."""
    model = LogisticRegression(max_iter=5000, class_weight="balanced")
    return make_pipeline(StandardScaler(), model).fit(x, labels)


def predict(shards: Shards, split: str, fold: int) -> Predictions:
    """Fits on the training side and predicts `split`; `fold` is written to each row.

    A location without training slices gets the probability 0.
    """
    training, target = _read(shards.source("train")), _read(shards.source(split))
    ich = training.hemorrhage == 1
    n = len(target.names)
    p_location = np.zeros((n, 3))
    if len(np.unique(training.location[ich])) > 1:
        model = fit(training.features[ich], training.location[ich])
        p_location[:, model.classes_] = model.predict_proba(target.features)
    else:
        p_location[:, training.location[ich][0]] = 1
    p_hemorrhage = fit(training.features, training.hemorrhage).predict_proba(target.features)[:, 1]
    return Predictions(
        key=np.array([name["key"] for name in target.names]),
        subject=np.array([name["subject"] for name in target.names]),
        hemorrhage=target.hemorrhage,
        location=target.location,
        p_hemorrhage=p_hemorrhage,
        p_location=p_location,
        split=np.full(n, split),
        study=np.array([name["study"] for name in target.names]),
        fold=np.full(n, fold),
    )


@dataclasses.dataclass(frozen=True)
class _Side:
    """All slices of one side: features, labels and pseudonyms."""

    features: Float[np.ndarray, "n 35"]
    hemorrhage: Int[np.ndarray, " n"]
    location: Int[np.ndarray, " n"]
    names: list[SliceNames]


def _read(source: SliceSource) -> _Side:
    rows = [source[i] for i in range(len(source))]
    return _Side(
        features=np.stack([features(row["image"]) for row in rows]),
        hemorrhage=np.array([int(row["hemorrhage"]) for row in rows]),
        location=np.array([int(row["location"]) for row in rows]),
        names=[source.describe(i) for i in range(len(source))],
    )
