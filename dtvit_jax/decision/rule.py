"""From a model's probabilities to a decision: aggregation, calibration and operating points.

All of it is fitted on validation (`rule_fitting`) and kept with the model in decision_rule.json,
which evaluation and prediction read: what only fitting needs is not imported here.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data_builder.errors import InputError
from dtvit_jax.decision.aggregation import LEVELS, Aggregation
from dtvit_jax.decision.calibration import Calibration
from dtvit_jax.decision.predictions import Predictions

FILE = "decision_rule.json"
VERSION = 1
TASKS = ("hemorrhage", "location")


@dataclasses.dataclass(frozen=True)
class DecisionRule:
    """What decision_rule.json holds, read.

    method: which of calibration.METHODS is applied. calibrations: by level and task. points: by
    level, each operating point's name and threshold (on the model's own probabilities for slices,
    on the aggregated score for subjects; calibration moves neither order nor decision). raw: the
    file's content.
    """

    aggregation: Aggregation
    method: str
    calibrations: dict[str, dict[str, Calibration]]
    points: dict[str, dict[str, float]]
    raw: dict[str, Any] = dataclasses.field(repr=False)

    def calibrated(
        self, predictions: Predictions, level: str, method: str | None = None
    ) -> Predictions:
        """The table with calibrated probabilities. level: 'slice', or 'subject' for scores."""
        fitted, method = self.calibrations[level], method or self.method
        p = fitted["hemorrhage"].apply(both(predictions.p_hemorrhage), method)[:, 1]
        place = fitted["location"].apply(predictions.p_location, method)
        return dataclasses.replace(predictions, p_hemorrhage=p, p_location=place)


def both(p: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    """Probabilities of normal and ICH."""
    return np.stack([1 - p.astype(np.float64), p.astype(np.float64)], axis=1)


def read(folder: Path) -> DecisionRule:
    """The rule of the model in `folder`.

    Raises:
      InputError: there is none, or it is damaged or of another version.
    """
    path = folder / FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} is missing: run python -m dtvit_jax.evaluate --workdir {folder} first"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: remove it and evaluate the run again") from error
    if not isinstance(raw, dict) or raw.get("version") != VERSION:
        raise InputError(f"{path} is not of version {VERSION}: remove it and evaluate again")
    try:
        return parse(raw)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: remove it and evaluate the run again") from error


def parse(raw: dict[str, Any]) -> DecisionRule:
    """The rule in a file's content. Raises KeyError, TypeError or ValueError for a damaged one."""
    fitted = raw["calibration"]
    points: dict[str, dict[str, float]] = {level: {} for level in LEVELS}
    for point in raw["operating_points"]:
        if point["threshold"] is not None:
            points[point["level"]][point["name"]] = float(point["threshold"])
    how = raw["aggregation"]
    return DecisionRule(
        aggregation=Aggregation(str(how["method"]), int(how["k"])),
        method=str(fitted["method"]),
        calibrations={
            level: {task: Calibration.from_json(fitted[level][task]) for task in TASKS}
            for level in LEVELS
        },
        points=points,
        raw=raw,
    )
