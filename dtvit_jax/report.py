"""report.html: one file that works offline, for a reader who has five minutes."""

import base64
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from data_builder.records import CLASSES, LOCATIONS
from dtvit_jax import figures
from dtvit_jax.aggregation import by_subject
from dtvit_jax.caveats import PHANTOM, RESEARCH, caveats
from dtvit_jax.evidence import TASK_CLASSES, roc_bands
from dtvit_jax.metrics import reliability_bins
from dtvit_jax.mistakes import SubjectMistakes, hemorrhage_mistakes, location_mistakes
from dtvit_jax.predictions import UNKNOWN, Predictions

SUBJECTS_SHOWN = 8
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
    ("f1", "F1 (Eq. 9)"),
    ("brier", "Brier score, 0 is best"),
    ("log_loss", "Log loss, 0 is best"),
    ("ece", "Calibration error (ECE), 0 is best"),
)
LOCATION_ROWS = (
    ("accuracy", "Accuracy"),
    ("macro_recall", "Macro recall"),
    ("macro_precision", "Macro precision"),
    ("macro_f1", "Macro F1"),
    ("weighted_f1", "Weighted F1"),
    ("macro_specificity", "Macro specificity"),
    ("macro_auroc", "Macro AUROC, one against the rest"),
    *((f"recall_{name}", f"Recall, {name}") for name in LOCATIONS),
    *((f"precision_{name}", f"Precision, {name}") for name in LOCATIONS),
    *((f"auroc_{name}", f"AUROC, {name} against the rest") for name in LOCATIONS),
    ("log_loss", "Log loss, 0 is best"),
)
COMBINED_ROWS = (
    ("pooled_accuracy", "Accuracy, decisions of both tasks pooled"),
    ("mean_accuracy", "Accuracy, mean of both tasks"),
    ("loss", "Loss, half of each task's, 0 is best"),
)

Images = Callable[[str], UInt8[np.ndarray, "rows columns"] | None]


def write_report(
    out_dir: str | os.PathLike[str],
    predictions: Predictions,
    metrics: Mapping[str, Any],
    run: Mapping[str, Any],
    history: Iterable[Mapping[str, Any]] = (),
    images: Images | None = None,
) -> Path:
    """Writes out_dir/report.html and out_dir/figures/*.png, *.svg; returns the report's path.

    metrics: of `evaluate_predictions` on the same predictions. run: run.json, with "dataset"; a
    missing part is 'not stated' (a predictions.csv of another system has none). images: slice key
    -> 8-bit slice, or None where it cannot be had. The same input gives the same bytes.
    """
    out_dir = Path(out_dir)
    top = metrics["aggregation"]["top"]
    subjects, _ = by_subject(predictions, top)
    drawn = _draw(predictions, subjects, metrics, list(history))
    for name, figure in drawn.items():
        figures.save(figure, out_dir / "figures", name)
    threshold = metrics["threshold"]
    page = (
        _environment()
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
                "combined": COMBINED_ROWS,
            },
            figures={name: Markup(figures.svg(figure, name)) for name, figure in drawn.items()},
            mistakes={
                "hemorrhage": _shown(hemorrhage_mistakes(predictions, threshold), images),
                "location": _shown(location_mistakes(predictions), images),
            },
            subjects=_subject_rows(subjects, predictions, threshold),
        )
    )
    path = out_dir / "report.html"
    partial = path.with_name(path.name + ".part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path


def _draw(
    predictions: Predictions,
    subjects: Predictions,
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> dict[str, Figure]:
    drawn = {}
    if history:
        drawn["curves"] = figures.training_curves(history)
    for level, tasks in metrics["confusion"].items():
        for task, matrix in tasks.items():
            if np.sum(matrix):
                title = f"{task.capitalize()}, by {level}"
                names = TASK_CLASSES[task]
                drawn[f"confusion_{task}_{level}"] = figures.confusion(
                    np.array(matrix), names, title, f"{level}s"
                )
    bands = roc_bands(predictions, top=metrics["aggregation"]["top"])
    if bands:
        drawn["roc"] = figures.roc({f"By {level}": bands[level] for level in reversed(bands)})
    tables = {"By subject": subjects, "By slice": predictions}
    known = {name: table.select(table.hemorrhage != UNKNOWN) for name, table in tables.items()}
    if len(known["By subject"]):
        drawn["subjects"] = figures.subject_scores(known["By subject"], metrics["threshold"])
    if len(known["By slice"]):
        drawn["reliability"] = figures.reliability(
            {
                name: reliability_bins(table.hemorrhage == 1, table.p_hemorrhage)
                for name, table in known.items()
                if len(table)
            }
        )
    return drawn


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
    every = [(group.subject, mistake) for group in found for mistake in group.mistakes]
    return {"shown": shown, "every": every, "subjects": len(found)}


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


def _subject_rows(
    subjects: Predictions, predictions: Predictions, threshold: float
) -> dict[str, list[dict[str, Any]]]:
    """Every subject by outcome, the most surprising first."""
    names, counts = np.unique(predictions.subject, return_counts=True)
    slices = dict(zip(names, counts, strict=True))
    groups: dict[str, list[dict[str, Any]]] = {
        "ICH, missed": [],
        "Normal, called ICH": [],
        "ICH, found": [],
        "Normal, left alone": [],
        "Truth unknown": [],
    }
    for row in range(len(subjects)):
        truth, p = int(subjects.hemorrhage[row]), float(subjects.p_hemorrhage[row])
        called = p >= threshold
        known = (
            ("Normal, called ICH", "ICH, found")
            if called
            else ("Normal, left alone", "ICH, missed")
        )
        group = "Truth unknown" if truth == UNKNOWN else known[truth]
        location = int(subjects.location[row])
        place = subjects.p_location[row]
        guess = int(np.argmax(place)) if np.isfinite(place).all() else UNKNOWN
        groups[group].append(
            {
                "subject": str(subjects.subject[row]),
                "slices": int(slices[subjects.subject[row]]),
                "p": p,
                "truth": "" if location == UNKNOWN else LOCATIONS[location],
                "called": "" if guess == UNKNOWN else LOCATIONS[guess],
                "p_called": None if guess == UNKNOWN else float(place[guess]),
                "wrong": guess not in (UNKNOWN, location) and location != UNKNOWN,
            }
        )
    for group, rows in groups.items():
        rows.sort(key=lambda r: (r["p"] if group.startswith("ICH") else -r["p"], r["subject"]))
    return {group: rows for group, rows in groups.items() if rows}


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dtvit_jax"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "duration": _duration, "count": _count}
    return environment


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
