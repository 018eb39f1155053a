"""From a model's probabilities to a decision: aggregation, calibration and operating points.

The rule is fitted on validation slices (`evaluation.fitted_rule`) and kept with the model in
decision_rule.json, which evaluation and prediction read. What only fitting needs (scipy.optimize,
scikit-learn) is not imported here.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import Float

from data_builder.errors import InputError
from data_builder.records import LOCATIONS
from dtvit_jax.decision.aggregation import LEVELS, Aggregation, Level
from dtvit_jax.decision.calibration import Calibration
from dtvit_jax.decision.predictions import Predictions

FILE = "decision_rule.json"
VERSION = 1
TASKS = ("hemorrhage", "location")


class FittedOn(TypedDict):
    """The sample that a rule was fitted on."""

    split: str
    slices: int
    subjects: int
    ich_subjects: int
    normal_subjects: int


class FittedAggregation(TypedDict):
    """The aggregation, and the candidates with their AUROC and log loss if validation chose it."""

    method: str
    k: int
    words: str
    chosen_on_validation: bool
    candidates: list[dict[str, Any]]


class OperatingPoint(TypedDict):
    """A threshold with its 95% interval and the rates it reached on validation.

    threshold is None where the aim cannot be reached; `reason` then says why.
    """

    name: str
    words: str
    level: Level
    threshold: float | None
    low: NotRequired[float]
    high: NotRequired[float]
    reason: NotRequired[str]
    validation: NotRequired[dict[str, Any]]


class RuleFile(TypedDict):
    """The content of decision_rule.json.

    calibration: "method", and by level and task a `Calibration` as JSON with "in_force", what is
    applied and why; files of earlier versions lack the latter.
    """

    version: int
    fitted_on: FittedOn
    checkpoint_step: NotRequired[int]
    checkpoint: NotRequired[str]
    dataset_digest: NotRequired[str]
    aggregation: FittedAggregation
    calibration: dict[str, Any]
    operating_points: list[OperatingPoint]


@dataclasses.dataclass(frozen=True)
class DecisionRule:
    """The decision rule of a model.

    Attributes:
      aggregation: how slices become subjects.
      method: the calibration method of calibration.METHODS that is applied.
      calibrations: fitted calibrations by level and task.
      points: by level, each operating point's name and threshold (on the model's own probabilities
        for slices, on the aggregated score for subjects; calibration changes neither order nor
        decision).
      raw: the content of the file.
    """

    aggregation: Aggregation
    method: str
    calibrations: dict[str, dict[str, Calibration]]
    points: dict[str, dict[str, float]]
    raw: RuleFile = dataclasses.field(repr=False)

    def calibrated(
        self, predictions: Predictions, level: str, method: str | None = None
    ) -> Predictions:
        """Returns the table with calibrated probabilities; level 'subject' is for scores.

        method: of calibration.METHODS (None: the rule's own).
        """
        fitted, method = self.calibrations[level], method or self.method
        p = fitted["hemorrhage"].apply(both(predictions.p_hemorrhage), method)[:, 1]
        p_location = fitted["location"].apply(predictions.p_location, method)
        return dataclasses.replace(predictions, p_hemorrhage=p, p_location=p_location)

    def in_force(self) -> dict[str, dict[str, str]]:
        """By level and task, the calibration that is applied and why, as `Calibration.words`."""
        classes = {"hemorrhage": 2, "location": len(LOCATIONS)}
        return {
            level: {task: fitted[task].words(self.method, classes[task]) for task in TASKS}
            for level, fitted in self.calibrations.items()
        }


def both(p: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    """Probabilities of normal and ICH, from those of ICH."""
    return np.stack([1 - p.astype(np.float64), p.astype(np.float64)], axis=1)


def read(folder: Path) -> DecisionRule:
    """Reads the rule of the model in `folder`.

    Raises InputError where the file is missing, damaged or of another version.
    """
    path = folder / FILE
    damaged = f"{path} is damaged: remove it and evaluate the run again"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} is missing: run python -m dtvit_jax.evaluate --workdir {folder} first"
        ) from error
    except ValueError as error:
        raise InputError(damaged) from error
    if not isinstance(raw, dict) or raw.get("version") != VERSION:
        raise InputError(f"{path} is not of version {VERSION}: remove it and evaluate again")
    try:
        return parse(raw)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(damaged) from error


def parse(raw: Any) -> DecisionRule:
    """Parses the content of a file. Raises KeyError, TypeError or ValueError if it is damaged."""
    fitted, aggregation = raw["calibration"], raw["aggregation"]
    points: dict[str, dict[str, float]] = {level: {} for level in LEVELS}
    for point in raw["operating_points"]:
        if point["threshold"] is not None:
            points[point["level"]][point["name"]] = float(point["threshold"])
    return DecisionRule(
        aggregation=Aggregation(str(aggregation["method"]), int(aggregation["k"])),
        method=str(fitted["method"]),
        calibrations={
            level: {task: Calibration.from_json(fitted[level][task]) for task in TASKS}
            for level in LEVELS
        },
        points=points,
        raw=raw,
    )
