"""The page of a comparison of models, and its figures."""

from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from data_builder.errors import InputError
from data_builder.files import write_json
from dtvit_jax.reports import figures
from dtvit_jax.reports.limitations import RESEARCH
from dtvit_jax.reports.pages import environment

SHOWN = (
    ("hemorrhage", "auroc", "AUROC, ICH"),
    ("hemorrhage", "accuracy", "Accuracy, ICH"),
    ("location", "accuracy", "Accuracy, location"),
    ("location", "macro_recall", "Macro recall, location"),
)


def write_comparison(out: Path, result: dict[str, Any]) -> Path:
    """Writes comparison.html, .json and figures/; returns the page's path. Raises InputError."""
    drawn = draw(result)
    try:
        out.mkdir(parents=True, exist_ok=True)
        pictures = {
            name: Markup(figures.save(figure, out / "figures", name))
            for name, figure in drawn.items()
        }
        page = (
            environment()
            .get_template("comparison.html")
            .render(result=result, figures=pictures, shown=SHOWN, research=RESEARCH)
        )
        draft = out / "comparison.html.part"
        draft.write_text(page, encoding="utf-8")
        draft.replace(out / "comparison.html")
        write_json(out / "comparison.json", result)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}: give another --out") from error
    return out / "comparison.html"


def draw(result: dict[str, Any]) -> dict[str, Figure]:
    """Forest plots by subject: each run's figures, and each pair's differences."""

    def entry(found: dict[str, Any]) -> tuple[float, float, float] | None:
        if not found or found["value"] is None:
            return None
        low, high = found["low"], found["high"]
        value = found["value"]
        return (value, value, value) if low is None else (low, value, high)

    runs, pairs = result["runs"], result["pairs"]
    return {
        "runs": figures.forest(
            list(runs),
            {
                label: [entry(run["subject"].get(task, {}).get(name)) for run in runs.values()]
                for task, name, label in SHOWN
            },
            None,
        ),
        "differences": figures.forest(
            [f"{pair['a']} - {pair['b']}" for pair in pairs],
            {
                label: [entry(pair["subject"].get(task, {}).get(name)) for pair in pairs]
                for task, name, label in SHOWN
            },
            0.0,
        ),
    }
