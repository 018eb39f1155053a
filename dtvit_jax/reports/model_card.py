"""model_card.md: what the model is, for whom, and how far its numbers carry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from dtvit_jax.reports.limitations import caveats

FIGURES = (
    ("hemorrhage", "auroc", "AUROC, ICH against normal"),
    ("hemorrhage", "sensitivity", "Sensitivity for ICH at 0.5"),
    ("hemorrhage", "specificity", "Specificity for ICH at 0.5"),
    ("location", "macro_recall", "Location, macro recall"),
)


def write_model_card(folder: Path, metrics: Mapping[str, Any], record: Mapping[str, Any]) -> Path:
    """Writes folder/model_card.md, whole or not at all. record: as for the report; may be {}."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dtvit_jax.reports"), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"line": _line, "figure": _figure}
    dataset = record.get("dataset") or {}
    page = environment.get_template("model_card.md").render(
        run=record,
        config=record.get("config") or {},
        dataset=dataset,
        metrics=metrics,
        figures=FIGURES,
        caveats=caveats(metrics, dataset),
    )
    path = folder / "model_card.md"
    draft = path.with_name(path.name + ".part")
    draft.write_text(page.rstrip() + "\n", encoding="utf-8")
    draft.replace(path)
    return path


def _line(value: Any) -> str:
    """One line of Markdown that carries no markup of its own."""
    text = " ".join(str(value).split())
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, "\\" + mark)
    return text


def _figure(entry: Mapping[str, Any]) -> str:
    """'0.912 (0.845 to 0.956)', or why there is none."""
    if entry["value"] is None:
        return f"none: {entry.get('reason', 'not known')}"
    if entry["low"] is None:
        return f"{entry['value']:.3f} (no interval)"
    return f"{entry['value']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"
