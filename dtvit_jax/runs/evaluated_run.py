"""A trained and evaluated run as something that answers: what is checked before it may."""

import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any

import ml_collections

from data_builder.cleaning import clean
from data_builder.cleaning.clean_folder import FORMATS
from data_builder.errors import InputError
from dtvit_jax.decision import outlier
from dtvit_jax.decision import rule as decision_rule
from dtvit_jax.decision.answer import ModelIdentity
from dtvit_jax.decision.outlier import TrainingSlices
from dtvit_jax.decision.rule import DecisionRule
from dtvit_jax.runs import evaluated_weights
from dtvit_jax.runs.evaluated_weights import Origin, Weights
from dtvit_jax.training import record as run_record
from dtvit_jax.training.record import RunRecord
from dtvit_jax.training.validation import lower_is_better


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
    record: RunRecord
    rule: DecisionRule
    training_slices: TrainingSlices
    cleaning: Cleaning
    origin: Origin

    @property
    def phantom(self) -> bool:
        """Whether it was trained on made-up heads."""
        return bool(self.record["dataset"].get("phantom"))

    def weights(self, params: Any, stats: Any) -> Weights:
        """Parameters and statistics, float32, in trees like those given (shapes). InputError."""
        return evaluated_weights.read(self.workdir, self.config.model.to_dict(), params, stats)

    def check(self, weights: Weights) -> str:
        """Digest of `weights`. Raises InputError where the file is damaged."""
        return evaluated_weights.check(self.workdir, weights, self.origin)

    def identity(self, weights_sha256: str) -> ModelIdentity:
        """The model's name, this program's version, and the digest of `weights`."""
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
    origin = evaluated_weights.origin(workdir)
    step, digest = origin.checkpoint_step, record["dataset"]["digest"]
    of = rule.raw.get("checkpoint_step"), rule.raw.get("dataset_digest"), training_slices.dataset
    same = of == (step, digest, digest) and origin.dataset_digest == digest
    if not same or _surpassed(run_record.read_history(workdir), config.best, step):
        raise InputError(
            f"what was evaluated in {workdir} is another checkpoint or data set than the run's: "
            f"run python -m dtvit_jax.evaluate --workdir {workdir} again"
        )
    cleaning = cleaning_of(record["dataset"])
    return ModelFolder(workdir, config, record, rule, training_slices, cleaning, origin)


def _surpassed(history: list[dict[str, Any]], best: str, step: int) -> bool:
    """Whether training went on after `step` to a better figure; of equals the last is the best."""
    sign = -1 if lower_is_better(best) else 1
    of = {r["step"]: sign * r[best] for r in history if r["split"] == "validation" and best in r}
    return step in of and any(at > step and value >= of[step] for at, value in of.items())


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
