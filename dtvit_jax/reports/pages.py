"""The templates of reports, the filters that they share, and the metrics that come first."""

import jinja2

from dtvit_jax.decision.probability_text import probability_text, threshold_text

KEY_METRICS = (
    ("hemorrhage", "auroc", "AUROC, ICH against normal"),
    ("hemorrhage", "sensitivity", "Sensitivity for ICH"),
    ("hemorrhage", "specificity", "Specificity for ICH"),
    ("location", "macro_recall", "Location, macro recall"),
)
"""Task, name and label of the metrics that a report and a model card show first."""


def environment() -> jinja2.Environment:
    """Loads the HTML templates, with escaping and the filters that pages share."""
    templates = _templates(escape=True)
    templates.filters |= {"number": _number, "duration": _duration, "count": _count}
    templates.filters["probability"] = probability_text
    return templates


def markdown() -> jinja2.Environment:
    """Loads the Markdown templates; they escape by the filter `line`."""
    templates = _templates(escape=False)
    templates.filters["line"] = _line
    return templates


def _templates(*, escape: bool) -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("dtvit_jax.reports"),
        autoescape=escape,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["threshold"] = threshold_text
    return templates


def _number(value: float | None, digits: int = 3) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def _count(value: int | None) -> str:
    return "not stated" if value is None else f"{value:,}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "a time not stated"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    units = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{number} {unit}" for number, unit in units if number) or "under 1 s"


def _line(value: object) -> str:
    """One line of Markdown text without markup."""
    text = " ".join(str(value).split())
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, "\\" + mark)
    return text
