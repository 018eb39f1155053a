"""Calibrates probabilities by temperature scaling or isotonic regression.

Both are fitted on validation and applied to other data. Temperature scaling (Guo et al. 2017)
divides the logits by one number, so the order of the classes stays; isotonic regression fits any
increasing step function, which needs more data.

The temperature of least log loss is 0 on a sample without an error, however small it is, and
infinite on one of chance. So its inverse, the calibration slope, is shrunk towards 1, as Steyerberg
et al. 2004 (Statistics in Medicine 23: 2567) advise for small validation samples: it has a Gamma
prior with its mode at 1 and the weight PRIOR, and the sample counts as many times as it has
subjects, because slices of one subject are not independent. The result is always finite and above
0, moves from 1 towards the temperature of least log loss with every further subject, and is within
a few percent of it from some hundred subjects on.
"""

import dataclasses
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Float, Int, Shaped

METHODS = ("temperature", "isotonic", "none")
PRIOR = 8.0
"""Rate of the Gamma prior on 1 / temperature: 95% of it are between 0.51 and 1.97."""
_EARLIER = (0.1, 10.0)
"""Earlier versions fitted without a prior, between the bounds 0.05 and 20.

A temperature of theirs that is outside this range is at a bound, or nearly: it is not applied.
"""
FLOOR = np.finfo(np.float64).eps
"""The least probability that a logarithm is taken of."""


class Knots(TypedDict):
    """The knots of an isotonic step as JSON."""

    x: list[float]
    y: list[float]


class CalibrationJson(TypedDict):
    """A `Calibration` as JSON; files of earlier versions lack the last two."""

    temperature: float | None
    isotonic: Knots
    subjects: int | None
    wrong: int


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A fitted temperature, and for two classes the knots of an isotonic step function.

    Attributes:
      temperature: nan where none is applied (fewer than two classes have rows).
      x, y: probabilities before and after, interpolated linearly; empty without an isotonic fit.
      subjects: how many it was fitted on; None: an earlier version fitted it.
      wrong: how many of them have a row whose most probable class is not the true one.
    """

    temperature: float
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    subjects: int | None = None
    wrong: int = 0

    def as_json(self) -> CalibrationJson:
        """Converts to plain values; None for a temperature that could not be fitted."""
        temperature = float(self.temperature) if np.isfinite(self.temperature) else None
        return {
            "temperature": temperature,
            "isotonic": {"x": list(self.x), "y": list(self.y)},
            "subjects": self.subjects,
            "wrong": self.wrong,
        }

    @staticmethod
    def from_json(value: Any) -> "Calibration":
        """Inverts `as_json`; a temperature at the bound of an earlier version becomes nan.

        Raises KeyError, TypeError or ValueError for other content.
        """
        temperature = np.nan if value["temperature"] is None else float(value["temperature"])
        x, y = (tuple(float(v) for v in value["isotonic"][axis]) for axis in "xy")
        subjects, wrong = value.get("subjects"), value.get("wrong", 0)
        if subjects is not None:
            return Calibration(temperature, x, y, int(subjects), int(wrong))
        carried = _EARLIER[0] < temperature < _EARLIER[1]
        return Calibration(temperature if carried else np.nan, x, y)

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

    def words(self, method: str, classes: int) -> str:
        """What `apply` does when asked for `method`, and why, as the beginning of a sentence."""
        used = self.used(method, classes)
        if method == "none":
            return "identity: no calibration was asked for"
        if self.subjects is None:
            if used != "none":
                return f"{self._named(used)}, as an earlier version of the program fitted it"
            return "identity: an earlier version of the program could not fit a temperature"
        sample = f"{self.subjects} validation subject{'' if self.subjects == 1 else 's'}"
        if used == "none":
            return f"identity: {sample} of fewer than two classes cannot carry a temperature"
        errors = f"{sample}, {self.wrong or 'none'} with an error"
        if used == "isotonic":
            return f"{used}, at least 1/{self.subjects + 2} from 0 and 1: {errors}"
        return f"{self._named(used)}, shrunk towards 1: {errors}"

    def _named(self, used: str) -> str:
        return used if used == "isotonic" else f"temperature {self.temperature:.2f}"


def fit(
    probabilities: Float[np.ndarray, "n classes"],
    truth: Int[np.ndarray, " n"],
    subject: Shaped[np.ndarray, " n"],
) -> Calibration:
    """Fits the shrunk temperature, and for two classes the isotonic step function.

    truth: the index of the true class. subject: whose each row is. Isotonic probabilities stay
    1 / (subjects + 2) away from 0 and 1, since so many subjects cannot show more. Rows of a single
    class give a Calibration that changes nothing.
    """
    # Their import takes seconds; applying a fitted rule does not need them.
    from sklearn.isotonic import IsotonicRegression

    subjects = len(np.unique(subject))
    wrong = len(np.unique(subject[probabilities.argmax(axis=1) != truth]))
    if len(np.unique(truth)) < 2:
        return Calibration(np.nan, subjects=subjects, wrong=wrong)
    temperature = 1 / _slope(log(probabilities.astype(np.float64)), truth, subjects)
    if probabilities.shape[1] != 2:
        return Calibration(temperature, subjects=subjects, wrong=wrong)
    margin = 1 / (subjects + 2)
    step = IsotonicRegression(y_min=margin, y_max=1 - margin, out_of_bounds="clip")
    step.fit(probabilities[:, 1].astype(np.float64), truth)
    x, y = (tuple(float(v) for v in knots) for knots in (step.X_thresholds_, step.y_thresholds_))
    return Calibration(temperature, x, y, subjects, wrong)


def _slope(
    logits: Float[np.ndarray, "n classes"], truth: Int[np.ndarray, " n"], subjects: int
) -> float:
    """The factor b of the logits that is most probable: the least of

        subjects * mean log loss(b) + PRIOR * (b - 1 - log b),

    which is convex in b and has its minimum where the derivative is 0.
    """
    from scipy import optimize

    true = logits[np.arange(len(truth)), truth].mean()

    def derivative(b: float) -> float:
        expected = (_softmax(logits * b) * logits).sum(axis=1).mean()
        return float(subjects * (expected - true) + PRIOR * (1 - 1 / b))

    low = high = 1.0
    while derivative(low) > 0:
        low /= 2
    while derivative(high) < 0:
        high *= 2
    return float(optimize.brentq(derivative, low, high, rtol=1e-9))


def _softmax(logits: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, "n classes"]:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def log(p: np.ndarray) -> np.ndarray:
    """Natural logarithm of probabilities, kept above float64's epsilon."""
    return np.log(np.clip(p, FLOOR, 1))
