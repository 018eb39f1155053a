"""The page of a comparison of models, and its figures."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from data_builder.errors import InputError
from data_builder.files import write_json, write_whole
from dtvit_jax.evaluation.schema import Comparison, Differences, Estimates
from dtvit_jax.reports import figures
from dtvit_jax.reports.limitations import RESEARCH
from dtvit_jax.reports.pages import environment

SHOWN = (
    ("hemorrhage", "auroc", "AUROC, ICH"),
    ("hemorrhage", "accuracy", "Accuracy, ICH"),
    ("location", "accuracy", "Accuracy, location"),
    ("location", "macro_recall", "Macro recall, location"),
)


def write_comparison(out: Path, result: Comparison) -> Path:
    """Writes comparison.html, comparison.json and figures/; returns the page's path.

    Raises InputError where `out` cannot be written.
    """
    drawn = draw(result)
    try:
        out.mkdir(parents=True, exist_ok=True)
        pictures = figures.save(drawn, out / "figures")
        template = environment().get_template("comparison.html")
        page = template.render(result=result, figures=pictures, shown=SHOWN, research=RESEARCH)
        write_whole(out / "comparison.html", page)
        write_json(out / "comparison.json", result)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}: give another --out") from error
    return out / "comparison.html"


def draw(result: Comparison) -> dict[str, Figure]:
    """Draws forest plots by subject: each run's metrics, and each pair's differences."""
    runs, pairs = result["runs"], result["pairs"]
    return {
        "runs": _forest(list(runs), [run["subject"] for run in runs.values()], None),
        "differences": _forest(
            [f"{pair['a']} - {pair['b']}" for pair in pairs],
            [pair["subject"] for pair in pairs],
            0.0,
        ),
    }


def _forest(
    names: list[str],
    rows: Sequence[dict[str, Estimates]] | Sequence[dict[str, Differences]],
    centre: float | None,
) -> Figure:
    def ends(
        row: dict[str, Estimates] | dict[str, Differences], task: str, name: str
    ) -> tuple[float, float, float] | None:
        entry = row.get(task, {}).get(name)
        if not entry or entry["value"] is None:
            return None
        value, low, high = entry["value"], entry["low"], entry["high"]
        return (value, value, value) if low is None or high is None else (low, value, high)

    panels = {label: [ends(row, task, name) for row in rows] for task, name, label in SHOWN}
    return figures.forest(names, panels, centre)
