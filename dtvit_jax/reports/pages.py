"""The HTML pages' templates, and the filters that they share."""

import jinja2


def environment() -> jinja2.Environment:
    """The templates, with the filters that pages share."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("dtvit_jax.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"number": _number, "duration": _duration, "count": _count}
    return templates


def _number(value: float | None, digits: int = 3) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def _count(value: int | None) -> str:
    return "not stated" if value is None else f"{value:,}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "a time not stated"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (left, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "under 1 s"
