"""Scores how unlike the training slices a slice is: nearest neighbours of image statistics.

The score does not depend on the model, so it also works where the model is confident. The
statistics are those of the training slices as stored; the score is 1 at the 0.99 quantile of
the validation slices, which are of other subjects. It detects slices that do not look like cleaned
head slices of the training set (another window, cleaning, body part, resolution, noise), not an
unseen disease.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_builder.errors import InputError
from data_builder.files import write_whole

FILE = "training_slices.json"
VERSION = 1
QUANTILE = 0.99
NEIGHBOURS = 5
MOST_REFERENCES = 2000
"""Training slices that are kept, evenly spaced: every slice of a study is compared with them."""

BINS = 16
FEATURES = (
    *(f"gray_{i}" for i in range(BINS)),  # sqrt of the head's share in each of 16 gray ranges
    "tissue",  # share of the image above 0
    "height",  # of the head's bounding box, as a fraction of the side
    "width",
    "row",  # its centre
    "column",
    "edges",  # mean difference of horizontally neighbouring pixels of the head, / 255
    "grain",  # mean difference from the 3 x 3 median, / 255
    "asymmetry",  # mean difference from the mirrored image, / 255
)


def features(image: UInt8[np.ndarray, "side side"]) -> Float[np.ndarray, " features"]:
    """Computes FEATURES of one stored slice; all 0 for an empty one."""
    side = len(image)
    rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros(len(FEATURES))
    head = image > 0
    pixels = image[head]
    gray = np.sqrt(np.bincount(pixels >> 4, minlength=BINS) / len(pixels))
    signed = image.astype(np.int16)
    inside = head[:, 1:] & head[:, :-1]
    steps = np.abs(np.diff(signed, axis=1))[inside]
    grain = np.abs(signed - cv2.medianBlur(image, 3))[head]
    mirrored = np.abs(signed - signed[:, ::-1]).sum() / len(pixels)
    return np.array(
        [
            *gray,
            len(pixels) / image.size,
            (rows[-1] - rows[0] + 1) / side,
            (columns[-1] - columns[0] + 1) / side,
            (rows[-1] + rows[0]) / 2 / side,
            (columns[-1] + columns[0]) / 2 / side,
            (steps.mean() if len(steps) else 0.0) / 255,
            grain.mean() / 255,
            mirrored / 255,
        ]
    )


@runtime_checkable
class Slices(Protocol):
    """One side of a data set, as `data.shards.SliceSource`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class TrainingSlices:
    """The reference features of the training slices, and the distance of a score of 1.

    Attributes:
      dataset: the data set's digest.
      mean, spread: of each feature over the training slices.
      references: standardised features of training slices.
      distance: the QUANTILE of the validation slices' mean distance to their nearest references.
    """

    dataset: str
    mean: Float[np.ndarray, " features"]
    spread: Float[np.ndarray, " features"]
    references: Float[np.ndarray, "references features"]
    distance: float

    def scores(self, values: Float[np.ndarray, "n features"]) -> Float[np.ndarray, " n"]:
        """Scores slices by their `features`, 0 or more.

        Above 1 a slice is further from the training slices than 99% of the validation slices.
        """
        return self._distances(values) / self.distance

    def _distances(self, values: Float[np.ndarray, "n features"]) -> Float[np.ndarray, " n"]:
        """Mean distance of each slice to its nearest references."""
        k = min(NEIGHBOURS, len(self.references))
        squares = (self.references**2).sum(axis=1)
        distances = np.empty(len(values))
        for start in range(0, len(values), 256):  # 256 x 2000 distances at once: 4 MB
            x = (values[start : start + 256] - self.mean) / self.spread
            squared = (x**2).sum(axis=1)[:, None] + squares - 2 * x @ self.references.T
            nearest = np.partition(squared, k - 1, axis=1)[:, :k]
            distances[start : start + 256] = np.sqrt(np.maximum(nearest, 0)).mean(axis=1)
        return distances


def fit(training: Slices, validation: Slices, dataset: str) -> TrainingSlices:
    """Takes the references from training slices, and the distance from validation slices.

    dataset: the data set's digest. Raises InputError where either side is empty.
    """
    if not len(training) or not len(validation):
        raise InputError(
            "no training or no validation slice, so outliers cannot be scored: build the shards "
            "with both sides"
        )
    x = np.stack([features(training[i]["image"]) for i in range(len(training))])
    # Without a floor, a feature that hardly varies in training would outweigh all others.
    mean, spread = x.mean(axis=0), np.maximum(x.std(axis=0), 0.01)
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_REFERENCES)).astype(int))
    references = np.round((x[kept] - mean) / spread, 5)  # as they are stored
    fitted = TrainingSlices(dataset, mean, spread, references, 1.0)
    held_out = np.stack([features(validation[i]["image"]) for i in range(len(validation))])
    distance = float(np.quantile(fitted._distances(held_out), QUANTILE))
    return dataclasses.replace(fitted, distance=max(distance, 1e-6))


def write(folder: Path, fitted: TrainingSlices) -> None:
    """Writes training_slices.json into the model's folder, whole or not at all."""
    value = {
        "version": VERSION,
        "dataset_digest": fitted.dataset,
        "features": FEATURES,
        "neighbours": NEIGHBOURS,
        "quantile_on_validation": QUANTILE,
        "distance": fitted.distance,
        "mean": fitted.mean.tolist(),
        "spread": fitted.spread.tolist(),
        "references": fitted.references.tolist(),
    }
    write_whole(folder / FILE, json.dumps(value) + "\n")


def read(folder: Path) -> TrainingSlices:
    """Reads training_slices.json.

    Raises InputError where it is missing, damaged or of another version.
    """
    path = folder / FILE
    mend = f"run python -m dtvit_jax.evaluate --workdir {folder}"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["version"] != VERSION or tuple(value["features"]) != FEATURES:
            raise InputError(f"{path} is of another version: remove it and {mend}")
        mean, spread, references = (
            np.array(value[name], np.float64) for name in ("mean", "spread", "references")
        )
        digest, distance = str(value["dataset_digest"]), float(value["distance"])
        fitted = TrainingSlices(digest, mean, spread, references, distance)
        if fitted.references.shape[1:] != fitted.mean.shape or not fitted.distance > 0:
            raise ValueError("shapes")
    except OSError as error:
        raise InputError(f"{path} is missing: {mend}") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path} is damaged: remove it and {mend}") from error
    return fitted
