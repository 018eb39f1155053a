"""table.md, table.html and table.json of an experiment, and its curves and matrices."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import ml_collections
import numpy as np
from markupsafe import Markup

from data_builder.files import write_json
from dtvit_jax.decision.predictions import UNKNOWN, Predictions
from dtvit_jax.evaluation import metrics
from dtvit_jax.evaluation.bootstrap import RESAMPLES
from dtvit_jax.evaluation.summary import TASK_CLASSES, has_location
from dtvit_jax.experiments.grid import BASELINE, Cell, from_random_weights
from dtvit_jax.experiments.table import FIGURES, beats, difference_of, joined, row_of
from dtvit_jax.reports import figures
from dtvit_jax.reports.limitations import PHANTOM, RESEARCH
from dtvit_jax.reports.pages import environment
from dtvit_jax.training.record import read_history

LEVELS = ("subject", "slice")
MAIN = tuple(label for _, _, label in FIGURES[:4])
RESAMPLES_ON_THE_WAY = 1000
RANDOM = "from random weights; not a replication"
Done = Mapping[Cell, Predictions]


def write_table(config: ml_collections.ConfigDict, done: Done, total: int, out: Path) -> None:
    """Writes the table of the cells that are done; curves and matrices once all are."""
    whole = len(done) == total
    table = make_table(config, done, total, RESAMPLES if whole else RESAMPLES_ON_THE_WAY)
    table["phantom"] = _phantom(done, out)
    pictures = {}
    if whole:
        for name, figure in draw(done, out).items():
            pictures[name] = Markup(figures.save(figure, out / "figures", name))
    words = {"main": MAIN, "labels": tuple(label for _, _, label in FIGURES), "phantom": PHANTOM}
    plain = jinja2.Environment(
        loader=jinja2.PackageLoader("dtvit_jax.reports"), trim_blocks=True, lstrip_blocks=True
    )
    plain.filters["cell"] = cell_in_words
    html = environment()
    html.filters["cell"] = cell_in_words
    for name, made in (("table.md", plain), ("table.html", html)):
        page = made.get_template(f"experiment{Path(name).suffix}").render(
            t=table, figures=pictures, research=RESEARCH, baseline=BASELINE, **words
        )
        draft = out / f"{name}.part"
        draft.write_text(page.rstrip() + "\n", encoding="utf-8")
        draft.replace(out / name)
    write_json(out / "table.json", table)


def make_table(
    config: ml_collections.ConfigDict, done: Done, total: int, resamples: int
) -> dict[str, Any]:
    """table.json: each row's figures by split and level, and the paired differences.

    "against": row - baseline. "leak": the split over slices - the split over subjects, on the same
    slices: what knowing a test subject's other slices is worth.
    """
    seeds: dict[tuple[str, str], dict[int, dict[int, Predictions]]] = defaultdict(dict)
    for cell, predictions in done.items():
        seeds[cell.row, cell.split].setdefault(cell.seed, {})[cell.fold] = predictions
    names = [*([BASELINE] if config.baseline else []), *config.rows]
    title = f"{config.title}{f' ({RANDOM})' if from_random_weights(config) else ''}"
    table: dict[str, Any] = {
        "title": title,
        "done": len(done),
        "total": total,
        "folds": config.folds,
        "seeds": list(config.seeds),
        "resamples": resamples,
        "splits": {},
        "leak": {},
    }
    for split in config.splits:
        rows: dict[str, Any] = {}
        against: dict[str, Any] = {}
        for name in names:
            mine = seeds.get((name, split))
            if not mine:
                continue
            rows[name] = {level: row_of(mine, level, resamples=resamples) for level in LEVELS}
            base = seeds.get((BASELINE, split))
            if name != BASELINE and base:
                against[name] = {
                    level: difference_of(mine, base, level, resamples=resamples) for level in LEVELS
                }
                against[name]["verdict"] = verdict(against[name]["subject"])
        table["splits"][split] = {"rows": rows, "against": against}
    for name in names if {"slice", "subject"} <= set(config.splits) else ():
        pair = [seeds.get((name, split)) for split in ("slice", "subject")]
        if pair[0] and pair[1]:
            table["leak"][name] = {
                level: difference_of(pair[0], pair[1], level, resamples=resamples)
                for level in LEVELS
            }
    return table


def verdict(difference: Mapping[str, Any]) -> str:
    """What the paired difference from the baseline allows to say of the ICH figure."""
    found = beats(difference, "ICH AUROC")
    if found is None:
        return "no paired interval"
    if found:
        return "above acquisition and slice selection"
    below = difference["ICH AUROC"]["high"] < 0
    end = ", and below them" if below else ""
    return f"not distinguishable from acquisition and slice selection{end}"


def cell_in_words(entry: Mapping[str, Any] | None, sign: bool = False) -> str:
    """'0.912 (0.845 to 0.956)'."""
    if not entry or entry["value"] is None:
        return "none"
    form = "{:+.3f}" if sign else "{:.3f}"
    said = form.format(entry["value"])
    if entry["low"] is None:
        return f"{said} (no interval: nothing varied)"
    return f"{said} ({form.format(entry['low'])} to {form.format(entry['high'])})"


def draw(done: Done, out: Path) -> dict[str, Any]:
    """Figure 5's curves (means over folds and seeds) and Figure 6's matrices, by slice."""
    drawn: dict[str, Any] = {}
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in done:
        groups[cell.row, cell.split].append(cell)
    for number, ((row, split), members) in enumerate(groups.items()):
        name = f"{number:02d}_{split}"
        history = mean_history([read_history(out / cell.folder) for cell in members])
        if history:
            drawn[f"curves_{name}"] = figures.training_curves(history)
        first = [done[cell] for cell in members if cell.seed == members[0].seed]
        whole = joined(first)
        for task, matrix in _matrices(whole).items():
            title = f"{row}, {split} split: {task}"
            drawn[f"matrix_{task}_{name}"] = figures.confusion(
                matrix, TASK_CLASSES[task], title, "slices"
            )
    return drawn


def _matrices(table: Predictions) -> dict[str, np.ndarray]:
    known, located = table.hemorrhage != UNKNOWN, has_location(table)
    found = {}
    if known.any():
        called = (table.p_hemorrhage[known] >= 0.5).astype(int)
        found["hemorrhage"] = metrics.confusion_matrix(table.hemorrhage[known], called, 2)
    if located.any():
        called = table.p_location[located].argmax(axis=1)
        found["location"] = metrics.confusion_matrix(table.location[located], called, 3)
    return found


def mean_history(histories: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of the same split and place in the order of evaluations, averaged over runs."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for history in histories:
        place: dict[str, int] = defaultdict(int)
        for row in history:
            groups[row["split"], place[row["split"]]].append(row)
            place[row["split"]] += 1
    return [
        {
            "split": split,
            **{
                name: float(np.mean([row[name] for row in rows]))
                for name in rows[0]
                if name != "split" and all(row.get(name) is not None for row in rows)
            },
        }
        for (split, _), rows in groups.items()
    ]


def _phantom(done: Done, out: Path) -> bool:
    """Whether the runs say that their data are phantoms."""
    for cell in done:
        try:
            record = json.loads((out / cell.folder / "run.json").read_text())
        except (OSError, ValueError):
            continue
        return bool(record["dataset"].get("phantom"))
    return False
