"""Calibrates probabilities by temperature scaling or isotonic regression.

Both are fitted on validation and applied to other data. Temperature scaling (Guo et al. 2017)
divides the logits by one number, so the order of the classes stays; isotonic regression fits any
increasing step function, which needs more data.
"""

import dataclasses
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Float, Int

METHODS = ("temperature", "isotonic", "none")
LEAST, MOST = 0.05, 20.0
"""Bounds of a temperature: on a sample without an error the best one would be 0."""
FLOOR = np.finfo(np.float64).eps
"""The least probability that a logarithm is taken of."""


class Knots(TypedDict):
    """The knots of an isotonic step as JSON."""

    x: list[float]
    y: list[float]


class CalibrationJson(TypedDict):
    """A `Calibration` as JSON."""

    temperature: float | None
    isotonic: Knots


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A fitted temperature, and for two classes the knots of an isotonic step function.

    Attributes:
      temperature: nan where it could not be fitted (fewer than two classes have rows).
      x, y: probabilities before and after, interpolated linearly; empty without an isotonic fit.
    """

    temperature: float
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()

    def as_json(self) -> CalibrationJson:
        """Converts to plain values; None for a temperature that could not be fitted."""
        temperature = float(self.temperature) if np.isfinite(self.temperature) else None
        return {"temperature": temperature, "isotonic": {"x": list(self.x), "y": list(self.y)}}

    @staticmethod
    def from_json(value: Any) -> "Calibration":
        """Inverts `as_json`. Raises KeyError, TypeError or ValueError for other content."""
        temperature = value["temperature"]
        knots = (tuple(float(v) for v in value["isotonic"][axis]) for axis in "xy")
        return Calibration(np.nan if temperature is None else float(temperature), *knots)

    def apply(
        self, probabilities: Float[np.ndarray, "n classes"], method: str
    ) -> Float[np.ndarray, "n classes"]:
        """Calibrates probabilities by `method`; unchanged where it could not be fitted.

        For more than two classes, 'isotonic' applies the temperature.
        """
        p = probabilities.astype(np.float64)
        used = self.used(method, p.shape[1])
        if used == "isotonic":
            positive = np.interp(p[:, 1], self.x, self.y)
            return np.stack([1 - positive, positive], axis=1)
        return p if used == "none" else _softmax(log(p) / self.temperature)

    def used(self, method: str, classes: int) -> str:
        """The method of METHODS that `apply` applies when asked for `method`."""
        if method == "isotonic" and self.x and classes == 2:
            return method
        return "none" if method == "none" or not np.isfinite(self.temperature) else "temperature"


def fit(probabilities: Float[np.ndarray, "n classes"], truth: Int[np.ndarray, " n"]) -> Calibration:
    """Fits the temperature of least log loss, and for two classes the isotonic step function.

    truth: the index of the true class. Isotonic probabilities stay 1 / (n + 2) away from 0 and 1,
    since n rows cannot show more. Rows of a single class give a Calibration that changes nothing.
    """
    # Their import takes seconds; applying a fitted rule does not need them.
    from scipy import optimize
    from sklearn.isotonic import IsotonicRegression

    classes = probabilities.shape[1]
    if len(np.unique(truth)) < 2:
        return Calibration(np.nan)
    logits = log(probabilities.astype(np.float64))

    def loss(log_temperature: float) -> float:
        p = _softmax(logits / np.exp(log_temperature))
        return float(-log(p[np.arange(len(truth)), truth]).mean())

    bounds = (np.log(LEAST), np.log(MOST))
    best = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    temperature = float(np.exp(best.x))
    if classes != 2:
        return Calibration(temperature)
    margin = 1 / (len(truth) + 2)
    step = IsotonicRegression(y_min=margin, y_max=1 - margin, out_of_bounds="clip")
    step.fit(probabilities[:, 1].astype(np.float64), truth)
    x, y = (tuple(float(v) for v in knots) for knots in (step.X_thresholds_, step.y_thresholds_))
    return Calibration(temperature, x, y)


def _softmax(logits: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, "n classes"]:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def log(p: np.ndarray) -> np.ndarray:
    """Natural logarithm of probabilities, kept above float64's epsilon."""
    return np.log(np.clip(p, FLOOR, 1))
