"""report.html: an evaluation in one file that works offline."""

import base64
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_builder.files import write_whole
from data_builder.records import CLASSES, FACTS, LOCATIONS
from dtvit_jax.decision.aggregation import Aggregation, Level, by_subject
from dtvit_jax.decision.predictions import Predictions
from dtvit_jax.decision.rule import DecisionRule
from dtvit_jax.evaluation.schema import Metrics
from dtvit_jax.evaluation.subgroups import Facts
from dtvit_jax.reports import figures
from dtvit_jax.reports.claim_checklist import checklist
from dtvit_jax.reports.limitations import PHANTOM, RESEARCH, caveats
from dtvit_jax.reports.pages import KEY_METRICS, environment
from dtvit_jax.reports.report_figures import draw
from dtvit_jax.reports.rows import (
    MOST_SLICES,
    TITLES,
    anchor,
    class_anchor,
    location_rows,
    outcome_rows,
    subject_facts,
)
from dtvit_jax.reports.worst_errors import hemorrhage_errors, location_errors

SUBJECTS_SHOWN = 6
SLICES_SHOWN = 4
PICTURE_PIXELS = 208

HEMORRHAGE_ROWS = (
    ("auroc", "AUROC"),
    ("average_precision", "Average precision"),
    ("accuracy", "Accuracy (Eq. 6)"),
    ("balanced_accuracy", "Balanced accuracy"),
    ("sensitivity", "Sensitivity, recall (Eq. 8)"),
    ("specificity", "Specificity (Eq. 10, corrected)"),
    ("precision", "Precision (Eq. 7)"),
    ("npv", "Negative predictive value"),
    ("f1", "F1 (Eq. 9)"),
    ("brier", "Brier score, 0 is best"),
    ("log_loss", "Log loss, 0 is best"),
    ("ece", "Calibration error (ECE), 0 is best"),
)
AVERAGED = (
    ("recall", "Recall"),
    ("precision", "Precision"),
    ("specificity", "Specificity"),
    ("f1", "F1"),
    ("auroc", "AUROC"),
    ("average_precision", "Average precision"),
)


def _lower(label: str) -> str:
    return label if label[:2].isupper() or label == "F1" else label.lower()


LOCATION_ROWS = (
    ("accuracy", "Accuracy (weighted recall)"),
    ("macro_recall", "Macro recall (balanced accuracy)"),
    *((f"macro_{name}", f"Macro {_lower(label)}") for name, label in AVERAGED[1:]),
    *((f"weighted_{name}", f"Weighted {_lower(label)}") for name, label in AVERAGED[1:]),
    ("brier", "Brier score, sum over classes, 0 is best"),
    ("log_loss", "Log loss, 0 is best"),
    ("ece", "Calibration error of the predicted class, 0 is best"),
)
ONE_AGAINST_REST_ROWS = tuple(
    (f"{name}_{location}", f"{label}, {location}")
    for location in LOCATIONS
    for name, label in AVERAGED
)
COMBINED_ROWS = (
    ("pooled_accuracy", "Accuracy, decisions of both tasks pooled"),
    *(
        (f"mean_{name}", f"{label}, mean of both tasks")
        for name, label in (("accuracy", "Accuracy"), *AVERAGED[:4])
    ),
    ("loss", "Loss, half of each task's (Eq. 5), 0 is best"),
)

Images = Callable[[str], UInt8[np.ndarray, "rows columns"] | None]
"""Returns the 8-bit slice of a key, or None where it is not available."""


def write_report(
    out_dir: Path,
    predictions: Predictions,
    metrics: Metrics,
    run: Mapping[str, Any],
    history: Iterable[Mapping[str, Any]] = (),
    images: Images | None = None,
    rule: DecisionRule | None = None,
    facts: Facts | None = None,
) -> Path:
    """Writes out_dir/report.html and out_dir/figures/*.png, *.svg; returns the report's path.

    metrics: of `evaluate_predictions` on the same predictions. run: run.json, with "dataset" and
    "config"; a missing field is 'not stated' (a predictions.csv of another system has none).
    rule: for the reliability after calibration. facts: columns of the rows. The same input gives
    the same bytes.
    """
    facts = facts or {}
    aggregation = Aggregation(metrics["aggregation"]["method"], metrics["aggregation"]["k"])
    subjects, _ = by_subject(predictions, aggregation)
    drawn = draw(predictions, subjects, metrics, list(history), rule)
    threshold = metrics["threshold"]
    names, counts = np.unique(predictions.subject, return_counts=True)
    slices = {str(name): int(count) for name, count in zip(names, counts, strict=True)}
    tables: tuple[tuple[Level, Predictions, Facts], ...] = (
        ("subject", subjects, subject_facts(predictions, facts)),
        ("slice", predictions, facts),
    )
    dataset = run.get("dataset") or {}
    page = (
        environment()
        .get_template("report.html")
        .render(
            run=run,
            dataset=dataset,
            metrics=metrics,
            classes=CLASSES,
            caveats=caveats(metrics, dataset),
            research=RESEARCH,
            phantom=PHANTOM,
            key_metrics=KEY_METRICS,
            tables={
                "hemorrhage": HEMORRHAGE_ROWS,
                "location": LOCATION_ROWS,
                "one_against_rest": ONE_AGAINST_REST_ROWS,
                "combined": COMBINED_ROWS,
            },
            figures=figures.save(drawn, out_dir / "figures"),
            errors={
                "hemorrhage": hemorrhage_errors(predictions, threshold),
                "location": location_errors(predictions),
            },
            subjects_shown=SUBJECTS_SHOWN,
            slices_shown=SLICES_SHOWN,
            picture_of=lambda key: _picture(key, images),
            outcomes={
                level: outcome_rows(table, threshold, slices, known)
                for level, table, known in tables
            },
            locations={
                level: location_rows(table, slices, known) for level, table, known in tables
            },
            outcome_titles=TITLES,
            most_slices=MOST_SLICES,
            facts=FACTS if facts else (),
            anchor=anchor,
            class_anchor=class_anchor,
            checklist=checklist(metrics, run),
        )
    )
    write_whole(out_dir / "report.html", page)
    return out_dir / "report.html"


def _picture(key: str, images: Images | None) -> str | None:
    """The slice as a PNG data URI; None where it is not available."""
    pixels = images(key) if images else None
    if pixels is None:
        return None
    picture = Image.fromarray(np.ascontiguousarray(pixels, np.uint8).squeeze())
    picture.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
