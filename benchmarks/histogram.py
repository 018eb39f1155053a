"""Fits the gray-histogram baseline on a source's own files, at their own size, not the shards'."""

import numpy as np
from PIL import Image

from data_builder.records import LOCATIONS, Record
from dtvit_jax.decision.predictions import Predictions
from dtvit_jax.experiments import histogram_baseline


def features(record: Record) -> np.ndarray:
    """Returns the 35 features of one slice."""
    return histogram_baseline.features(np.asarray(Image.open(record.image).convert("L")))


def predict(
    records: list[Record], x: np.ndarray, side_of: dict[str, str], fold: int
) -> Predictions:
    """Fits on the training side and predicts the test side of one fold."""
    sides = np.array([side_of[r.key] for r in records])
    hemorrhage = np.array([r.hemorrhage for r in records])
    location = np.array([LOCATIONS.index(r.location) if r.hemorrhage else -1 for r in records])
    train, test = sides == "train", np.flatnonzero(sides == "test")

    ich = train & (hemorrhage == 1)
    p_hemorrhage = histogram_baseline.fit(x[train], hemorrhage[train]).predict_proba(x[test])
    p_location = histogram_baseline.fit(x[ich], location[ich]).predict_proba(x[test])
    return Predictions(
        key=np.array([records[i].key for i in test]),
        subject=np.array([records[i].subject for i in test]),
        hemorrhage=hemorrhage[test],
        location=location[test],
        p_hemorrhage=p_hemorrhage[:, 1],
        p_location=p_location,
        split=np.full(len(test), "test"),
        study=np.array([records[i].study for i in test]),
        fold=np.full(len(test), fold),
    )
