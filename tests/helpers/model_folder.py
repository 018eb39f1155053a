"""Writes a run's folder as training and evaluation would, with random weights."""

import json
from pathlib import Path

import ml_collections
import numpy as np
from PIL import Image

from data_builder.cleaning import clean
from data_builder.shards.images import resize
from dtvit_jax.decision import outlier
from dtvit_jax.decision.aggregation import Aggregation
from dtvit_jax.evaluation import fitted_rule
from dtvit_jax.runs import evaluated_weights
from dtvit_jax.training import record as run_record
from tests.helpers.dicom_files import head_hu
from tests.helpers.predictions import make
from tests.helpers.run_folder import save_run

SIZE = 36
MODEL = {
    "name": "vit_nano8",
    "image_size": 32,
    "channels": 1,
    "head": "mlp",
    "head_dropout": 0.1,
    "location_classes": 3,
}
CLEANING = {
    "mode": "robust",
    "version": clean.VERSION,
    "format": "png",
    "window_hu": list(clean.WINDOW),
    "phantom": True,
}


def heads(n: int, seed: int) -> list[dict]:
    """Cleaned heads of `dicom_files` with a little noise, as records of a data set."""
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(n):
        hu = head_hu() + rng.normal(0, 1 + rng.random(), (64, 64))
        gray = clean.clean_slice(hu.astype(np.float32), "robust", (3.5, 3.5))
        records.append({"image": np.asarray(resize(Image.fromarray(gray), SIZE))})
    return records


def save_model(workdir: Path, validation=None, model=MODEL, method="temperature") -> tuple:
    """Writes the folder; returns parameters and statistics.

    validation: predictions that the decision rule is fitted on; None: synthetic ones.
    """
    weights = save_run(workdir, ml_collections.ConfigDict(model))
    dataset = {"digest": "0123", "cleaning": CLEANING, "phantom": True, "size": SIZE}
    record = {"format": run_record.FORMAT, "transform_version": 1, "dataset": dataset}
    (workdir / "run.json").write_text(json.dumps(record))
    of = {"checkpoint_step": 3, "dataset_digest": "0123"}
    if validation is None:
        validation = make(seed=1, split="validation")
    rule = fitted_rule.fit(validation, Aggregation(), method, of, resamples=50)
    fitted_rule.write(workdir, rule)
    outlier.write(workdir, outlier.fit(heads(60, 0), heads(40, 1), "0123"))
    evaluated_weights.write(workdir, model, weights, 3, "0123")
    return weights
