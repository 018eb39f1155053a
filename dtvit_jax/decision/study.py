"""From the probabilities of a study's slices to its answer. Pure functions.

An answer is 'uncertain' where the model can't tell: the score lies between the two ends of its
operating point's 95% interval, so that another validation sample would have decided otherwise; or
the slices are unlike the training slices (`outlier`).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from data_builder.errors import InputError
from dtvit_jax.decision.aggregation import by_subject
from dtvit_jax.decision.answer import LOCATIONS, SliceAnswer, StudyAnswer
from dtvit_jax.decision.predictions import UNKNOWN, Predictions
from dtvit_jax.decision.rule import DecisionRule

DEFAULT_POINT = "sensitivity_0.95"
MOST_OUTLIERS = 0.5
"""A study is uncertain where more than this part of its slices are outliers."""

ICH, NO_ICH, UNCERTAIN = "ich", "no ich", "uncertain"


@dataclasses.dataclass(frozen=True)
class Point:
    """An operating point at one level: from `low` on it may be ICH, from `high` on it is.

    `threshold` lies between them. On the model's own probabilities, or the aggregated score.
    """

    threshold: float
    low: float
    high: float

    def decide(self, score: float) -> str:
        """'ich', 'no ich' or, between the ends, 'uncertain'."""
        if score >= self.high:
            return ICH
        return UNCERTAIN if score >= self.low else NO_ICH


@dataclasses.dataclass(frozen=True)
class Points:
    """The operating point called `name` at both levels."""

    name: str
    slice: Point
    subject: Point


@dataclasses.dataclass(frozen=True)
class SliceFacts:
    """What is known of a slice before the model sees it: as in SliceAnswer."""

    key: str
    file: int
    frame: int | None
    position_mm: float | None


def points_of(rule: DecisionRule, name: str) -> Points:
    """The point called `name`; one that slices do not have lends them its plain form.

    Raises InputError where the rule has no such point by subject.
    """
    plain = name.removesuffix("_assured")
    known = sorted(set(rule.points["subject"]) & {*rule.points["slice"], f"{plain}_assured"})
    if name not in rule.points["subject"] or plain not in rule.points["slice"]:
        raise InputError(
            f"the model has no operating point {name!r}: it has {', '.join(known) or 'none'}"
            + ("" if known else " (its validation side holds one class alone)")
        )
    return Points(name, _point(rule, "slice", plain), _point(rule, "subject", name))


def _point(rule: DecisionRule, level: str, name: str) -> Point:
    stored: dict[str, Any] = next(
        point
        for point in rule.raw["operating_points"]
        if (point["level"], point["name"]) == (level, name)
    )
    threshold = float(stored["threshold"])
    ends = [float(stored[end]) for end in ("low", "high") if stored.get(end) is not None]
    return Point(threshold, min(threshold, *ends, 1.0), max(threshold, *ends, 0.0))


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
    """The answer of a study with one slice or more; slices come out in order of position.

    p_hemorrhage, p_location: the model's own, not calibrated. outliers: `TrainingSlices.scores`.
    """
    table = _table(key, slices, p_hemorrhage, p_location)
    whole, _ = by_subject(table, rule.aggregation)
    calibrated, calibrated_whole = (
        rule.calibrated(table, "slice"),
        rule.calibrated(whole, "subject"),
    )
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
    decision = points.subject.decide(float(whole.p_hemorrhage[0]))
    reasons = _doubts(decision, table, usual, rule, points)
    if reasons:
        decision = UNCERTAIN
    p_where = _three(calibrated_whole.p_location[0])
    return StudyAnswer(
        key=key,
        subject=subject,
        slices=tuple(sorted(answers, key=_place)),
        p_hemorrhage=float(calibrated_whole.p_hemorrhage[0]),
        p_location=p_where,
        decision=decision,
        location=LOCATIONS[int(np.argmax(p_where))] if decision == ICH else "",
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
    """A study's aggregated score, before calibration, beside its threshold and its ends.

    Where a model was all but right on validation, calibration pushes both near 0 or 1, and only
    here they can be told apart.
    """
    table = _table("", slices, p_hemorrhage, np.full((len(slices), 3), 1 / 3))
    whole, _ = by_subject(table, rule.aggregation)
    return {"score": float(whole.p_hemorrhage[0]), **dataclasses.asdict(points.subject)}


def _doubts(
    decision: str, table: Predictions, usual: np.ndarray, rule: DecisionRule, points: Points
) -> list[str]:
    """Why the answer is uncertain, in words; empty where it is not."""
    reasons, n, k = [], len(table), rule.aggregation.k
    if n < k:
        reasons.append(f"{_slices(n)} only: the model's rule takes the {k} highest of a study")
    if decision == UNCERTAIN:
        reasons.append(
            "the probability lies within the 95% interval of the operating point's threshold"
        )
    strange = n - int(usual.sum())
    if strange > MOST_OUTLIERS * n:
        reasons.append(f"{strange} of {_slices(n)} are unlike the training slices")
    elif strange:
        rest, _ = by_subject(table.select(usual), rule.aggregation)
        other = points.subject.decide(float(rest.p_hemorrhage[0]))
        if other != decision:
            reasons.append(
                f"without the {_slices(strange)} unlike the training slices the answer would be "
                f"'{other}'"
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
    n = len(slices)
    return Predictions(
        key=np.array([facts.key for facts in slices]),
        subject=np.full(n, key),  # the rule's 'subject' is here the study
        hemorrhage=np.full(n, UNKNOWN),
        location=np.full(n, UNKNOWN),
        p_hemorrhage=p_hemorrhage,
        p_location=p_location,
        split=np.full(n, ""),
        study=np.full(n, key),
        fold=np.full(n, UNKNOWN),
    )


def _calibrated_score(rule: DecisionRule, score: float) -> float:
    """A score of the subject level as the probability that is reported for it."""
    p = np.array([[1 - score, score]])
    return float(rule.calibrations["subject"]["hemorrhage"].apply(p, rule.method)[0, 1])


def _three(p: np.ndarray) -> tuple[float, float, float]:
    deep, lobar, subtentorial = (float(each) for each in p)
    return deep, lobar, subtentorial


def _place(answer: SliceAnswer) -> tuple:
    place = math.inf if answer.position_mm is None else answer.position_mm
    return (place, answer.file, answer.frame or 0, answer.key)
