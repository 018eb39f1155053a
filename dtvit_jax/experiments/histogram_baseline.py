"""What acquisition and slice selection alone give: a gray histogram and a logistic regression.

It sees no shape and no place. A model whose figure does not beat this row by a paired test is not
distinguishable from it.
"""

import numpy as np
from jaxtyping import Float, Int, UInt8
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from dtvit_jax.data.shards import Shards, SliceSource
from dtvit_jax.decision.predictions import Predictions

NAME = "gray histogram and logistic regression"


def features(image: UInt8[np.ndarray, "rows columns"]) -> Float[np.ndarray, " 35"]:
    """32-bin gray histogram, mean, spread and share of tissue (> 10) of one slice."""
    histogram = np.bincount(image.ravel() >> 3, minlength=32) / image.size
    return np.array([*histogram, image.mean(), image.std(), (image > 10).mean()])


def fit(x: Float[np.ndarray, "n f"], labels: Int[np.ndarray, " n"]) -> Pipeline:
    """Scaled features and a balanced logistic regression."""
    model = LogisticRegression(max_iter=5000, class_weight="balanced")
    return make_pipeline(StandardScaler(), model).fit(x, labels)


def predict(shards: Shards, split: str, fold: int) -> Predictions:
    """Fitted on the training side, applied to `split`; a location without training rows gets 0."""
    x, hemorrhage, location, _ = _read(shards.source("train"))
    given, truth, place, names = _read(shards.source(split))
    ich = hemorrhage == 1
    p_location = np.zeros((len(truth), 3))
    if len(np.unique(location[ich])) > 1:
        model = fit(x[ich], location[ich])
        p_location[:, model.classes_] = model.predict_proba(given)
    else:
        p_location[:, location[ich][0]] = 1
    return Predictions(
        key=np.array([name["key"] for name in names]),
        subject=np.array([name["subject"] for name in names]),
        hemorrhage=truth,
        location=place,
        p_hemorrhage=fit(x, hemorrhage).predict_proba(given)[:, 1],
        p_location=p_location,
        split=np.full(len(truth), split),
        study=np.array([name["study"] for name in names]),
        fold=np.full(len(truth), fold),
    )


Columns = tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, str]]]


def _read(source: SliceSource) -> Columns:
    rows = [source[i] for i in range(len(source))]
    x = np.stack([features(row["image"]) for row in rows])
    hemorrhage = np.array([int(row["hemorrhage"]) for row in rows])
    location = np.array([int(row["location"]) for row in rows])
    return x, hemorrhage, location, [source.describe(i) for i in range(len(source))]
