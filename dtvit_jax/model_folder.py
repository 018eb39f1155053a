"""A trained and evaluated run as something that answers: what is checked before it may."""

import dataclasses
import functools
import hashlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from data_builder import clean
from data_builder.errors import InputError
from data_builder.studies import FORMATS
from dtvit_jax import decision_rule, outlier, run_record
from dtvit_jax.answers import ModelIdentity
from dtvit_jax.checkpoint import Checkpoints
from dtvit_jax.decision_rule import DecisionRule
from dtvit_jax.outlier import TrainingSlices


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """How DICOM becomes slices for this model. `stated`: the training data says so itself.

    Slices in the published layout come cleaned; their authors' steps are the 'paper' mode.
    """

    mode: clean.Mode
    image_format: str
    stated: bool


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """A run's folder, read and checked: all but its weights."""

    workdir: Path
    config: ml_collections.ConfigDict
    record: dict[str, Any]
    rule: DecisionRule
    training_slices: TrainingSlices
    cleaning: Cleaning
    step: int
    checkpoints: Checkpoints

    @property
    def phantom(self) -> bool:
        """Whether it was trained on made-up heads."""
        return bool(self.record["dataset"].get("phantom"))

    def weights(self) -> tuple[Any, Any]:
        """Parameters and batch statistics as NumPy arrays."""
        return self.checkpoints.restore_model(self.step)

    def reader(self) -> Callable[[], tuple[Any, Any]]:
        """`weights` for a thread of its own: what would be slow beside others is done here."""
        shapes = self.checkpoints.shapes(self.step)
        return functools.partial(self.checkpoints.restore_model, self.step, shapes=shapes)

    def identity(self, weights_sha256: str) -> ModelIdentity:
        """The model's name, this program's version, and the `weights_digest` of `weights`."""
        version = importlib.metadata.version("dtvit-jax")
        return ModelIdentity(self.config.model.name, version, weights_sha256)


def open_model(workdir: Path) -> ModelFolder:
    """Reads and checks the folder of a run.

    Raises:
      InputError: it holds no finished or evaluated run, its parts are of different models, or it
        is of another version of format, transform or cleaning.
    """
    config = run_record.read_config(workdir)
    record = run_record.read_record(workdir)
    rule = decision_rule.read(workdir)
    training_slices = outlier.read(workdir)
    checkpoints = Checkpoints(workdir, config.best, read_only=True)
    digest, step = record["dataset"]["digest"], checkpoints.best
    of = rule.raw.get("checkpoint_step"), rule.raw.get("dataset_digest"), training_slices.dataset
    if of != (step, digest, digest):
        raise InputError(
            f"the decision rule in {workdir} is of another checkpoint or data set: run python -m "
            f"dtvit_jax.evaluate --workdir {workdir} again"
        )
    cleaning = cleaning_of(record["dataset"])
    return ModelFolder(workdir, config, record, rule, training_slices, cleaning, step, checkpoints)


def cleaning_of(dataset: dict[str, Any]) -> Cleaning:
    """How the training slices were cleaned. Raises InputError where this program does it else."""
    told = dataset.get("cleaning") or {}
    if not told:
        return Cleaning("paper", "png", stated=False)
    version, window = told.get("version"), tuple(told.get("window_hu", clean.WINDOW))
    if version != clean.VERSION or window != clean.WINDOW:
        raise InputError(
            f"the model was trained on slices of cleaning version {version}, this program cleans "
            f"by version {clean.VERSION}: use the program's version that trained it, or clean and "
            "train again"
        )
    mode, image_format = told.get("mode"), told.get("format")
    if mode not in clean.MODES or image_format not in FORMATS:
        raise InputError(
            f"run.json names a cleaning that is not known ({mode}, {image_format}): train again"
        )
    return Cleaning(mode, image_format, stated=True)


def weights_digest(weights: tuple[Any, Any]) -> str:
    """SHA-256 over every parameter's and statistic's path, type, shape and bytes, in path order."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    for path, leaf in sorted(leaves, key=lambda each: jax.tree_util.keystr(each[0])):
        value = np.ascontiguousarray(leaf)
        head = f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}\n"
        digest.update(head.encode())
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
