"""report.html: one file that works offline, for a reader who has five minutes."""

import base64
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image

from data_builder.records import CLASSES, FACTS, LOCATIONS
from dtvit_jax.decision.aggregation import Aggregation, by_subject
from dtvit_jax.decision.predictions import Predictions
from dtvit_jax.decision.rule import DecisionRule
from dtvit_jax.evaluation.subgroups import Facts
from dtvit_jax.reports import figures
from dtvit_jax.reports.claim_checklist import checklist
from dtvit_jax.reports.limitations import PHANTOM, RESEARCH, caveats
from dtvit_jax.reports.pages import environment
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
from dtvit_jax.reports.worst_errors import SubjectMistakes, hemorrhage_mistakes, location_mistakes

SUBJECTS_SHOWN = 6
SLICES_SHOWN = 4
PICTURE_PIXELS = 208

KEY_NUMBERS = (
    ("hemorrhage", "auroc", "AUROC, ICH against normal"),
    ("hemorrhage", "sensitivity", "Sensitivity for ICH"),
    ("hemorrhage", "specificity", "Specificity for ICH"),
    ("location", "macro_recall", "Location, macro recall"),
)
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


def _low(label: str) -> str:
    return label if label[:2].isupper() or label == "F1" else label.lower()


LOCATION_ROWS = (
    ("accuracy", "Accuracy (weighted recall)"),
    ("macro_recall", "Macro recall (balanced accuracy)"),
    *((f"macro_{name}", f"Macro {_low(label)}") for name, label in AVERAGED[1:]),
    *((f"weighted_{name}", f"Weighted {_low(label)}") for name, label in AVERAGED[1:]),
    ("brier", "Brier score, sum over classes, 0 is best"),
    ("log_loss", "Log loss, 0 is best"),
    ("ece", "Calibration error of the called class, 0 is best"),
)
ONE_AGAINST_REST_ROWS = tuple(
    (f"{name}_{place}", f"{label}, {place}") for place in LOCATIONS for name, label in AVERAGED
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


def write_report(
    out_dir: str | os.PathLike[str],
    predictions: Predictions,
    metrics: Mapping[str, Any],
    run: Mapping[str, Any],
    history: Iterable[Mapping[str, Any]] = (),
    images: Images | None = None,
    rule: DecisionRule | None = None,
    facts: Facts | None = None,
) -> Path:
    """Writes out_dir/report.html and out_dir/figures/*.png, *.svg; returns the report's path.

    metrics: of `evaluate_predictions` on the same predictions. run: run.json, with "dataset" and
    "config"; a missing part is 'not stated' (a predictions.csv of another system has none).
    images: slice key -> 8-bit slice, or None where it cannot be had. rule: for the reliability
    after calibration. facts: shown beside the rows. The same input gives the same bytes.
    """
    out_dir, facts = Path(out_dir), facts or {}
    how = metrics["aggregation"]
    aggregation = Aggregation(how["method"], how["k"])
    subjects, _ = by_subject(predictions, aggregation)
    drawn = draw(predictions, subjects, metrics, list(history), rule)
    pictures = {
        name: Markup(figures.save(figure, out_dir / "figures", name))
        for name, figure in drawn.items()
    }
    threshold = metrics["threshold"]
    names, counts = np.unique(predictions.subject, return_counts=True)
    slices = {str(name): int(count) for name, count in zip(names, counts, strict=True)}
    known = {"subject": subject_facts(predictions, facts), "slice": facts}
    tables = {"subject": subjects, "slice": predictions}
    page = (
        environment()
        .get_template("report.html")
        .render(
            run=run,
            dataset=run.get("dataset") or {},
            metrics=metrics,
            classes=CLASSES,
            caveats=caveats(metrics, run.get("dataset") or {}),
            research=RESEARCH,
            phantom=PHANTOM,
            key_numbers=KEY_NUMBERS,
            tables={
                "hemorrhage": HEMORRHAGE_ROWS,
                "location": LOCATION_ROWS,
                "one_against_rest": ONE_AGAINST_REST_ROWS,
                "combined": COMBINED_ROWS,
            },
            figures=pictures,
            mistakes={
                "hemorrhage": _shown(hemorrhage_mistakes(predictions, threshold), images),
                "location": _shown(location_mistakes(predictions), images),
            },
            outcomes={
                level: outcome_rows(table, threshold, slices, known[level])
                for level, table in tables.items()
            },
            places={
                level: location_rows(table, slices, known[level]) for level, table in tables.items()
            },
            outcome_titles=TITLES,
            most_slices=MOST_SLICES,
            facts=FACTS if facts else (),
            anchor=anchor,
            class_anchor=class_anchor,
            checklist=checklist(metrics, run),
        )
    )
    path = out_dir / "report.html"
    partial = path.with_name(path.name + ".part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path


def _shown(found: Sequence[SubjectMistakes], images: Images | None) -> dict[str, Any]:
    """What the page shows of the mistakes: all counted, the worst as pictures, the rest named."""
    shown = [
        {
            "subject": group.subject,
            "wrong": len(group.mistakes),
            "slices": group.slices,
            "cards": [(m, _picture(m.key, images)) for m in group.mistakes[:SLICES_SHOWN]],
            "more": len(group.mistakes[SLICES_SHOWN:]),
        }
        for group in found[:SUBJECTS_SHOWN]
    ]
    wrong = sum(len(group.mistakes) for group in found)
    return {"shown": shown, "wrong": wrong, "subjects": len(found)}


def _picture(key: str, images: Images | None) -> str | None:
    """The slice as a data URI, or None."""
    pixels = images(key) if images else None
    if pixels is None:
        return None
    picture = Image.fromarray(np.ascontiguousarray(pixels, np.uint8).squeeze())
    picture.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
