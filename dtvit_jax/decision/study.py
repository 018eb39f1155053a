"""From the probabilities of a study's slices to its answer, in pure functions.

Slices unlike the training slices (`outlier`) are 'uncertain', and the study's probabilities,
decision and location are those of its other slices, the usual ones. A study is 'uncertain', with a
reason for each that holds, where
- a model that was trained on synthetic phantoms reads a slice that is not marked as one; then every
  slice is 'uncertain' too, and the study has no probability;
- more than half of its slices are unlike the training slices; where all are, it has no probability;
- it has fewer usual slices than the aggregation takes;
- the score is within the 95% interval of its operating point's threshold, so that another
  validation sample could have decided otherwise;
- its usual slices alone show no hemorrhage, but with the others the decision would not be 'no ich':
  what was left out may be a hemorrhage.
Whatever the decision, a remark says how many slices were left out, and whether the decision or the
location would be another with them.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from data_builder.errors import InputError
from data_builder.records import LOCATIONS
from dtvit_jax.decision.aggregation import Level, by_subject
from dtvit_jax.decision.answer import ICH, NO_ICH, UNCERTAIN, SliceAnswer, StudyAnswer
from dtvit_jax.decision.predictions import UNKNOWN, Predictions
from dtvit_jax.decision.reasons import Verdict, reasons_of, remarks_of
from dtvit_jax.decision.rule import DecisionRule


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
    """A slice before the model sees it; the other fields are those of SliceAnswer.

    phantom: whether the source marks it as a synthetic phantom of data_builder.
    """

    key: str
    file: int
    frame: int | None
    position_mm: float | None
    phantom: bool


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
    *,
    trained_on_phantoms: bool,
) -> StudyAnswer:
    """Answers a study of one slice or more; its slices are returned in order of position.

    p_hemorrhage, p_location: the model's own, not calibrated. outliers: `TrainingSlices.scores`.
    trained_on_phantoms: whether any training slice of the model was synthetic.
    """
    table = _table(key, slices, p_hemorrhage, p_location)
    calibrated, usual = rule.calibrated(table, "slice"), outliers <= 1
    real = sum(not facts.phantom for facts in slices) if trained_on_phantoms else 0
    judged = usual & (real == 0)
    answers = [
        SliceAnswer(
            key=facts.key,
            file=facts.file,
            frame=facts.frame,
            position_mm=facts.position_mm,
            p_hemorrhage=float(calibrated.p_hemorrhage[i]),
            p_location=_three(calibrated.p_location[i]),
            decision=points.slice.decide(float(p_hemorrhage[i])) if judged[i] else UNCERTAIN,
            outlier=float(outliers[i]),
        )
        for i, facts in enumerate(slices)
    ]
    every = _verdict(table, rule, points)
    counted = _verdict(table.select(usual), rule, points) if usual.any() and not real else None
    reasons = reasons_of(counted, every, usual, real, rule.aggregation.k)
    decision = UNCERTAIN if reasons or counted is None else counted.decision
    return StudyAnswer(
        key=key,
        subject=subject,
        slices=tuple(sorted(answers, key=_position)),
        p_hemorrhage=counted.p_hemorrhage if counted else None,
        p_location=counted.p_location if counted else None,
        decision=decision,
        location=counted.location if counted and decision == ICH else "",
        point=points.name,
        threshold=_calibrated_score(rule, points.subject.threshold),
        reasons=reasons,
        remarks=remarks_of(counted, every, usual, decision),
    )


def _verdict(table: Predictions, rule: DecisionRule, points: Points) -> Verdict:
    study, _ = by_subject(table, rule.aggregation)
    calibrated = rule.calibrated(study, "subject")
    p_location = _three(calibrated.p_location[0])
    return Verdict(
        p_hemorrhage=float(calibrated.p_hemorrhage[0]),
        p_location=p_location,
        decision=points.subject.decide(float(study.p_hemorrhage[0])),
        location=LOCATIONS[int(np.argmax(p_location))],
    )


def own_scale(
    slices: Sequence[SliceFacts],
    p_hemorrhage: Float[np.ndarray, " n"],
    rule: DecisionRule,
    points: Points,
) -> dict[str, float]:
    """The aggregated score of slices before calibration, with the operating point's Point by field.

    Where a model made almost no error on validation, calibration moves scores and threshold near
    0 or 1, and they differ visibly on this scale only.
    """
    table = _table("", slices, p_hemorrhage, np.full((len(slices), len(LOCATIONS)), 1 / 3))
    study, _ = by_subject(table, rule.aggregation)
    return {"score": float(study.p_hemorrhage[0]), **dataclasses.asdict(points.subject)}


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
