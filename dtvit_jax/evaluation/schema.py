"""The content of metrics.json and comparison.json as typed dictionaries.

Names and order of the keys are a file format: other programs read these files.
"""

from typing import Generic, Literal, NotRequired, TypedDict, TypeVar

from dtvit_jax.decision.aggregation import Level
from dtvit_jax.decision.rule import FittedAggregation, FittedOn, OperatingPoint

Task = Literal["hemorrhage", "location", "combined"]
Entry = TypeVar("Entry")


class Bounds(TypedDict):
    """The ends of a 95% interval."""

    low: float
    high: float


class Estimate(TypedDict):
    """A metric's value and its 95% interval over subjects; a field that does not apply is absent.

    Attributes:
      value: None where the sample leaves it undefined.
      low, high: None where there is no interval.
      reason: why the value or the interval is missing.
      undefined_resamples: the share of resamples that leave the value undefined, above 0 to 1.
      count, of: numerator and denominator of a proportion.
      exact, score: the closed-form interval, of a proportion and of an AUROC, where each row is an
        independent subject.
      method: the closed form that `low` and `high` are from, where they are not the bootstrap's.
    """

    value: float | None
    low: float | None
    high: float | None
    reason: NotRequired[str]
    undefined_resamples: NotRequired[float]
    count: NotRequired[int]
    of: NotRequired[int]
    exact: NotRequired[Bounds]
    score: NotRequired[Bounds]
    method: NotRequired[str]


class Difference(Estimate):
    """A metric of model a minus that of model b; p: two-sided, of a difference of 0."""

    p: float | None
    a: float | None
    b: float | None
    p_holm: NotRequired[float | None]


Estimates = dict[str, Estimate]
Differences = dict[str, Difference]


class ByLevel(TypedDict, Generic[Entry]):
    """Entries by task, of slices and of subjects."""

    slice: dict[str, Entry]
    subject: dict[str, Entry]


class SampleCounts(TypedDict):
    """Slices, subjects and studies of a sample; the subjects whose location truth is a tie."""

    slices: int
    subjects: int
    studies: int
    slices_by_class: dict[str, int]
    subjects_by_class: dict[str, int]
    location_ties: list[str]


class AggregationJson(TypedDict):
    """How slices became subjects, with a description in `words`."""

    method: str
    k: int
    words: str


class IntervalMethod(TypedDict):
    """How the 95% intervals were computed."""

    level: float
    method: str
    resamples: int
    seed: int


class RuleSummary(TypedDict):
    """The decision rule that was applied; fitted_here: on the evaluated slices themselves.

    calibration: by level and task, what is applied and why, in words.
    """

    version: NotRequired[int]
    fitted_here: NotRequired[bool]
    fitted_on: FittedOn
    aggregation: FittedAggregation
    calibration: dict[str, dict[str, str]]


class JudgedPoint(OperatingPoint):
    """An operating point; here: its rates on the evaluated slices, empty without a threshold."""

    here: Estimates


class CalibrationQuality(TypedDict, total=False):
    """Brier score, log loss and ECE of a task after each calibration method."""

    fitted_temperature: float | None
    none: Estimates
    temperature: Estimates
    isotonic: Estimates


class CalibrationJson(TypedDict):
    """The applied method, and the quality of every method by level and task."""

    method: str
    slice: NotRequired[dict[str, CalibrationQuality]]
    subject: NotRequired[dict[str, CalibrationQuality]]


class RuleMetrics(TypedDict, total=False):
    """What a decision rule adds to metrics.json."""

    decision_rule: RuleSummary
    calibration: CalibrationJson
    operating_points: list[JudgedPoint]


class Group(ByLevel[Estimates]):
    """The metrics of the slices that share a value of a fact."""

    value: str
    n: SampleCounts


class Subgroups(TypedDict):
    """The groups of a fact; alone: the AUROC of the fact by itself, `subgroups` says how."""

    confound: str | None
    alone: float | None
    groups: list[Group]


class Metrics(ByLevel[Estimates], RuleMetrics):
    """metrics.json, all but "of" (what was evaluated)."""

    positive: str
    threshold: float
    aggregation: AggregationJson
    interval: IntervalMethod
    n: SampleCounts
    confusion: dict[Level, dict[str, list[list[int]]]]
    warnings: list[str]
    subgroups: NotRequired[dict[str, Subgroups]]


class PairedDifferences(ByLevel[Differences]):
    """The differences of two models by level, task and metric."""

    n: SampleCounts


class McNemar(TypedDict):
    """Rows on which only a or only b is correct, and the two-sided p-value."""

    only_a: int
    only_b: int
    p: float
    p_holm: NotRequired[float]


class AreaDifference(TypedDict):
    """Two AUROCs, their difference with its 95% interval and standard error, and the p-value."""

    a: float
    b: float
    value: float
    low: float
    high: float
    se: float
    p: float
    p_holm: NotRequired[float]


class PairTests(TypedDict):
    """Tests by subject; None where the sample does not allow one."""

    mcnemar: dict[str, McNemar | None]
    delong: AreaDifference | None


class Pair(ByLevel[Differences]):
    """Two runs of a comparison: differences, tests, and what these allow to conclude."""

    a: str
    b: str
    tests: PairTests
    sentences: list[str]


class RunMetrics(ByLevel[Estimates]):
    """One run of a comparison."""

    aggregation: str


class Comparison(TypedDict):
    """comparison.json."""

    positive: str
    threshold: float
    interval: IntervalMethod
    n: SampleCounts
    warnings: list[str]
    runs: dict[str, RunMetrics]
    pairs: list[Pair]
