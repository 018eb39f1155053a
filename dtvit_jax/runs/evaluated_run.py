"""The folder of a trained and evaluated run, checked before its model answers."""

import dataclasses
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import ml_collections

from data_builder.cleaning import clean
from data_builder.cleaning.clean_folder import FORMATS
from data_builder.errors import InputError
from data_builder.files import sha256_of
from dtvit_jax.decision import outlier
from dtvit_jax.decision import rule as decision_rule
from dtvit_jax.decision.answer import ModelIdentity
from dtvit_jax.decision.outlier import TrainingSlices
from dtvit_jax.decision.rule import DecisionRule
from dtvit_jax.models.variables import Tree, Variables
from dtvit_jax.runs import evaluated_weights
from dtvit_jax.runs.evaluated_weights import Origin
from dtvit_jax.training import record as run_record
from dtvit_jax.training.record import RunRecord
from dtvit_jax.training.validation import lower_is_better


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """How DICOM images were cleaned into the slices that the model was trained on.

    stated: the data set's record says so. Slices of the published data set have no such record;
    their authors' method is the mode 'paper'.
    """

    mode: clean.Mode
    image_format: str
    stated: bool


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """A run's folder, read and checked, without its weights."""

    workdir: Path
    config: ml_collections.ConfigDict
    record: RunRecord
    rule: DecisionRule
    training_slices: TrainingSlices
    cleaning: Cleaning
    origin: Origin

    @property
    def phantom(self) -> bool:
        """Whether the model was trained on synthetic heads."""
        return bool(self.record["dataset"].get("phantom"))

    @property
    def digest(self) -> str:
        """64 hexadecimal digits over all that its answers depend on, apart from the rule.

        That is its weights, config (the transform) and training slices, what `cleaning` says and
        `phantom`.
        """
        parts = [
            self.origin.weights_sha256,
            sha256_of(self.workdir / "config.json"),
            sha256_of(self.workdir / outlier.FILE),
            dataclasses.asdict(self.cleaning),
            clean.VERSION,
            self.phantom,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def weights(self, params: Tree, stats: Tree) -> Variables:
        """Parameters and statistics, float32, in the nesting of the given (abstract) ones.

        Raises InputError where they do not fit config.model.
        """
        return evaluated_weights.read(self.workdir, self.config.model.to_dict(), params, stats)

    def check(self, weights: Variables) -> str:
        """SHA-256 of `weights`. Raises InputError where their file is damaged."""
        return evaluated_weights.check(self.workdir, weights, self.origin)

    def identity(self, weights_sha256: str) -> ModelIdentity:
        """The model's name, this program's version and the SHA-256 of the weights."""
        version = importlib.metadata.version("dtvit-jax")
        return ModelIdentity(self.config.model.name, version, weights_sha256)


def open_model(workdir: Path) -> ModelFolder:
    """Reads and checks the folder of a run.

    Raises:
      InputError: the run is not finished or not evaluated, its files belong to different models,
        or it has another version of format, transform or cleaning.
    """
    config = run_record.read_config(workdir)
    record = run_record.read_record(workdir)
    rule = decision_rule.read(workdir)
    training_slices = outlier.read(workdir)
    origin = evaluated_weights.origin(workdir)
    step, digest = origin.checkpoint_step, record["dataset"]["digest"]
    same = (
        rule.raw.get("checkpoint_step") == step
        and rule.raw.get("checkpoint", "") == origin.checkpoint
        and digest == rule.raw.get("dataset_digest") == training_slices.dataset
        and digest == origin.dataset_digest
    )
    if not same or _surpassed(workdir, config.best, step):
        raise InputError(
            f"what was evaluated in {workdir} is another checkpoint or data set than the run's: "
            f"run python -m dtvit_jax.evaluate --workdir {workdir} again"
        )
    cleaning = cleaning_of(record["dataset"])
    return ModelFolder(workdir, config, record, rule, training_slices, cleaning, origin)


def _surpassed(workdir: Path, best: str, step: int) -> bool:
    """Whether a later step than `step` has a better or equal value of the metric `best`.

    Equal counts: of equal checkpoints the last is the run's best. Where the run's checkpoints are
    there, one that is not among them does not count: it was damaged, and is moved aside.
    """
    history, checkpoints = run_record.read_history(workdir), workdir / "checkpoints"
    sign = -1 if lower_is_better(best) else 1
    values = {
        row["step"]: sign * row[best]
        for row in history
        if row["split"] == "validation" and best in row
        if row["step"] == step
        or not checkpoints.is_dir()
        or (checkpoints / str(row["step"])).is_dir()
    }
    return step in values and any(
        later > step and value >= values[step] for later, value in values.items()
    )


def cleaning_of(dataset: dict[str, Any]) -> Cleaning:
    """How the training slices were cleaned, by the data set's entry in run.json.

    Raises:
      InputError: this program cleans by another version or window, or does not know the mode.
    """
    stated = dataset.get("cleaning") or {}
    if not stated:
        return Cleaning("paper", "png", stated=False)
    version, window = stated.get("version"), tuple(stated.get("window_hu", clean.WINDOW))
    if version != clean.VERSION or window != clean.WINDOW:
        raise InputError(
            f"the model was trained on slices of cleaning version {version}, this program cleans "
            f"by version {clean.VERSION}: use the program's version that trained it, or clean and "
            "train again"
        )
    mode, image_format = stated.get("mode"), stated.get("format")
    if mode not in clean.MODES or image_format not in FORMATS:
        raise InputError(
            f"run.json names an unknown cleaning ({mode}, {image_format}): train again"
        )
    return Cleaning(mode, image_format, stated=True)
