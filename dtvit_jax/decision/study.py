"""From the probabilities of a study's slices to its answer, in pure functions.

An answer is 'uncertain' where the score is within the 95% interval of its operating point's
threshold, so that another validation sample could have decided otherwise; where the study has
fewer slices than the aggregation takes; or where slices unlike the training slices (`outlier`)
decide it.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from data_builder.errors import InputError
from data_builder.records import LOCATIONS
from dtvit_jax.decision.aggregation import Level, by_subject
from dtvit_jax.decision.answer import SliceAnswer, StudyAnswer
from dtvit_jax.decision.predictions import UNKNOWN, Predictions
from dtvit_jax.decision.rule import DecisionRule

DEFAULT_POINT = "sensitivity_0.95"
MOST_OUTLIERS = 0.5
"""A study is uncertain where more than this share of its slices are outliers."""

ICH, NO_ICH, UNCERTAIN = "ich", "no ich", "uncertain"


@dataclasses.dataclass(frozen=True)
class Point:
    """A threshold with the ends of its 95% interval, low <= threshold <= high.

    On the scale of the model's own probabilities (slices) or of the aggregated score (studies).
    """

    threshold: float
    low: float
    high: float

    def decide(self, score: float) -> str:
        """Returns 'ich' from `high` on, 'no ich' below `low`, else 'uncertain'."""
        if score >= self.high:
            return ICH
        return UNCERTAIN if score >= self.low else NO_ICH


@dataclasses.dataclass(frozen=True)
class Points:
    """An operating point at both levels."""

    name: str
    slice: Point
    subject: Point


@dataclasses.dataclass(frozen=True)
class SliceFacts:
    """A slice before the model sees it; the fields are those of SliceAnswer."""

    key: str
    file: int
    frame: int | None
    position_mm: float | None


def points_of(rule: DecisionRule, name: str) -> Points:
    """Returns the operating point `name`; slices have no assured points and take the plain one.

    Raises InputError where the rule has no such point by subject.
    """
    plain = name.removesuffix("_assured")
    by_slice = rule.points["slice"]
    names = [
        each for each in sorted(rule.points["subject"]) if each.removesuffix("_assured") in by_slice
    ]
    if name not in names:
        reason = next(
            (
                f" (by {point['level']}, {point.get('reason', 'no threshold')})"
                for point in rule.raw["operating_points"]
                if point["threshold"] is None and point["name"] in (name, plain)
            ),
            "",
        )
        raise InputError(
            f"the model has no operating point {name!r}{reason}: it has "
            f"{', '.join(names) or 'none'}"
        )
    return Points(name, _point(rule, "slice", plain), _point(rule, "subject", name))


def _point(rule: DecisionRule, level: Level, name: str) -> Point:
    stored = next(
        point
        for point in rule.raw["operating_points"]
        if (point["level"], point["name"]) == (level, name)
    )
    threshold = rule.points[level][name]
    low, high = stored.get("low"), stored.get("high")
    return Point(
        threshold,
        threshold if low is None else min(threshold, float(low)),
        threshold if high is None else max(threshold, float(high)),
    )


def answer_study(
    key: str,
    subject: str,
    slices: Sequence[SliceFacts],
    p_hemorrhage: Float[np.ndarray, " n"],
    p_location: Float[np.ndarray, "n 3"],
    outliers: Float[np.ndarray, " n"],
    rule: DecisionRule,
    points: Points,
) -> StudyAnswer:
    """Answers a study of one slice or more; its slices are returned in order of position.

    p_hemorrhage, p_location: the model's own, not calibrated. outliers: `TrainingSlices.scores`.
    """
    table = _table(key, slices, p_hemorrhage, p_location)
    study, _ = by_subject(table, rule.aggregation)
    calibrated = rule.calibrated(table, "slice")
    calibrated_study = rule.calibrated(study, "subject")
    usual = outliers <= 1
    answers = [
        SliceAnswer(
            key=facts.key,
            file=facts.file,
            frame=facts.frame,
            position_mm=facts.position_mm,
            p_hemorrhage=float(calibrated.p_hemorrhage[i]),
            p_location=_three(calibrated.p_location[i]),
            decision=points.slice.decide(float(p_hemorrhage[i])) if usual[i] else UNCERTAIN,
            outlier=float(outliers[i]),
        )
        for i, facts in enumerate(slices)
    ]
    decision = points.subject.decide(float(study.p_hemorrhage[0]))
    reasons = _reasons(decision, table, usual, rule, points)
    if reasons:
        decision = UNCERTAIN
    p_study_location = _three(calibrated_study.p_location[0])
    return StudyAnswer(
        key=key,
        subject=subject,
        slices=tuple(sorted(answers, key=_position)),
        p_hemorrhage=float(calibrated_study.p_hemorrhage[0]),
        p_location=p_study_location,
        decision=decision,
        location=LOCATIONS[int(np.argmax(p_study_location))] if decision == ICH else "",
        point=points.name,
        threshold=_calibrated_score(rule, points.subject.threshold),
        reasons=tuple(reasons),
    )


def own_scale(
    slices: Sequence[SliceFacts],
    p_hemorrhage: Float[np.ndarray, " n"],
    rule: DecisionRule,
    points: Points,
) -> dict[str, float]:
    """A study's aggregated score before calibration, with the operating point's Point by field.

    Where a model made almost no error on validation, calibration moves scores and threshold near
    0 or 1, and they differ visibly on this scale only.
    """
    table = _table("", slices, p_hemorrhage, np.full((len(slices), len(LOCATIONS)), 1 / 3))
    study, _ = by_subject(table, rule.aggregation)
    return {"score": float(study.p_hemorrhage[0]), **dataclasses.asdict(points.subject)}


def _reasons(
    decision: str,
    table: Predictions,
    usual: Bool[np.ndarray, " n"],
    rule: DecisionRule,
    points: Points,
) -> list[str]:
    """Why the answer is uncertain, in words; empty where it is not."""
    reasons, n, k = [], len(table), rule.aggregation.k
    if n < k:
        reasons.append(f"{_slices(n)} only: the model's rule takes the {k} highest of a study")
    if decision == UNCERTAIN:
        reasons.append(
            "the probability lies within the 95% interval of the operating point's threshold"
        )
    outliers = n - int(usual.sum())
    if outliers > MOST_OUTLIERS * n:
        reasons.append(f"{outliers} of {_slices(n)} are unlike the training slices")
    elif outliers:
        rest, _ = by_subject(table.select(usual), rule.aggregation)
        decision_of_rest = points.subject.decide(float(rest.p_hemorrhage[0]))
        if decision_of_rest != decision:
            reasons.append(
                f"without the {_slices(outliers)} unlike the training slices the answer would be "
                f"'{decision_of_rest}'"
            )
    return reasons


def _slices(n: int) -> str:
    return f"{n} slice{'' if n == 1 else 's'}"


def _table(
    key: str,
    slices: Sequence[SliceFacts],
    p_hemorrhage: Float[np.ndarray, " n"],
    p_location: Float[np.ndarray, "n 3"],
) -> Predictions:
    """The slices as a table of one study with unknown truth."""
    n = len(slices)
    return Predictions(
        key=np.array([facts.key for facts in slices]),
        subject=np.full(n, key),  # the rule aggregates by subject; here, by study
        hemorrhage=np.full(n, UNKNOWN),
        location=np.full(n, UNKNOWN),
        p_hemorrhage=p_hemorrhage,
        p_location=p_location,
        split=np.full(n, ""),
        study=np.full(n, key),
        fold=np.full(n, UNKNOWN),
    )


def _calibrated_score(rule: DecisionRule, score: float) -> float:
    """The calibrated probability that is reported for an aggregated score."""
    p = np.array([[1 - score, score]])
    return float(rule.calibrations["subject"]["hemorrhage"].apply(p, rule.method)[0, 1])


def _three(p: np.ndarray) -> tuple[float, float, float]:
    deep, lobar, subtentorial = map(float, p)
    return deep, lobar, subtentorial


def _position(answer: SliceAnswer) -> tuple[float, int, int, str]:
    """Sort key: slices without a position come last, in the order of their files."""
    position = math.inf if answer.position_mm is None else answer.position_mm
    return position, answer.file, answer.frame or 0, answer.key
