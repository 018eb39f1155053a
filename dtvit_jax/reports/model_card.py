"""model_card.md: what the model is, what it is for, and how far its numbers hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_builder.files import write_whole
from dtvit_jax.evaluation.schema import Estimate, Metrics
from dtvit_jax.reports.limitations import caveats
from dtvit_jax.reports.pages import KEY_METRICS, markdown


def write_model_card(folder: Path, metrics: Metrics, record: Mapping[str, Any]) -> Path:
    """Writes folder/model_card.md, whole or not at all. record: as for the report; may be {}."""
    templates = markdown()
    templates.filters["estimate"] = _estimate
    dataset = record.get("dataset") or {}
    page = templates.get_template("model_card.md").render(
        run=record,
        config=record.get("config") or {},
        dataset=dataset,
        metrics=metrics,
        key_metrics=KEY_METRICS,
        caveats=caveats(metrics, dataset),
    )
    path = folder / "model_card.md"
    write_whole(path, page.rstrip() + "\n")
    return path


def _estimate(entry: Estimate) -> str:
    """'0.912 (0.845 to 0.956)', or why there is no value or no interval."""
    if entry["value"] is None:
        return f"none: {entry['reason']}"
    if entry["low"] is None:
        return f"{entry['value']:.3f} (no interval)"
    return f"{entry['value']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"
