"""Probabilities that mean what they say: temperature scaling and isotonic regression.

Both are fitted on validation and applied to other data. Temperature scaling (Guo et al. 2017)
divides the logits by one number and so never changes which class is likelier; isotonic regression
fits any increasing step, and needs more data for it.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

METHODS = ("temperature", "isotonic", "none")
LEAST, MOST = 0.05, 20.0
"""Bounds of a temperature: without a wrong slice the best one would be 0."""
FLOOR = np.finfo(np.float64).eps


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was fitted: one temperature, and for two classes the knots of an isotonic step.

    temperature: nan where the sample could not tell (a class without rows). x, y: probabilities
    before and after, straight lines between them; empty where there is no isotonic fit.
    """

    temperature: float
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values; null for a temperature that could not be fitted."""
        known = np.isfinite(self.temperature)
        temperature = float(self.temperature) if known else None
        return {"temperature": temperature, "isotonic": {"x": list(self.x), "y": list(self.y)}}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Calibration":
        """The inverse of `as_json`. Raises KeyError, TypeError or ValueError for anything else."""
        temperature = value["temperature"]
        knots = (tuple(float(v) for v in value["isotonic"][axis]) for axis in "xy")
        return Calibration(np.nan if temperature is None else float(temperature), *knots)

    def apply(
        self, probabilities: Float[np.ndarray, "n classes"], method: str
    ) -> Float[np.ndarray, "n classes"]:
        """Probabilities after `method` of METHODS; unchanged where it could not be fitted.

        Isotonic regression is for two classes; on more, the temperature stands in.
        """
        p = probabilities.astype(np.float64)
        used = self.used(method, p.shape[1])
        if used == "isotonic":
            positive = np.interp(p[:, 1], self.x, self.y)
            return np.stack([1 - positive, positive], axis=1)
        return p if used == "none" else _softmax(log(p) / self.temperature)

    def used(self, method: str, classes: int) -> str:
        """Which of METHODS `apply` really applies, asked for `method`."""
        if method == "isotonic" and self.x and classes == 2:
            return method
        return "none" if method == "none" or not np.isfinite(self.temperature) else "temperature"


def fit(probabilities: Float[np.ndarray, "n classes"], truth: Int[np.ndarray, " n"]) -> Calibration:
    """The temperature of least log loss; for two classes also the isotonic step of least squares.

    truth: the index of the true class. Isotonic probabilities are kept 1 / (n + 2) away from 0 and
    1, as n rows can't show more. Of rows of one class alone nothing can be learned.
    """
    # Seconds to import, and a rule that was fitted is applied without them.
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
