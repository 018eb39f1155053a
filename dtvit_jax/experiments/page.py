"""Writes an experiment's table.md, table.html and table.json, and its curves and matrices."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from data_builder.files import write_json, write_whole
from dtvit_jax.decision.aggregation import by_subject
from dtvit_jax.decision.predictions import Predictions
from dtvit_jax.evaluation.bootstrap import RESAMPLES
from dtvit_jax.evaluation.summary import TASK_CLASSES, confusion_of, parts
from dtvit_jax.experiments.grid import BASELINE, Cell, from_random_weights
from dtvit_jax.experiments.table import FIGURES, Figure, beats, difference_of, joined, row_of
from dtvit_jax.reports import figures
from dtvit_jax.reports.limitations import PHANTOM, RESEARCH
from dtvit_jax.reports.pages import environment, markdown
from dtvit_jax.training.record import read_history

LEVELS = ("subject", "slice")
LABELS = tuple(label for _, _, label in FIGURES)
MAIN = LABELS[:4]
RESAMPLES_ON_THE_WAY = 1000
"""Resamples while cells are missing."""

RANDOM = "from random weights; not a replication"
Done = Mapping[Cell, Predictions]
"""Predictions of the finished cells."""


def write_table(config: ml_collections.ConfigDict, done: Done, total: int, out: Path) -> None:
    """Writes the table of the finished cells; also curves and matrices once all `total` are."""
    whole = len(done) == total
    table = make_table(config, done, total, RESAMPLES if whole else RESAMPLES_ON_THE_WAY)
    table["phantom"] = _phantom(done, out)
    pictures = figures.save(draw(done, out), out / "figures") if whole else {}
    for suffix, templates in (("md", markdown()), ("html", environment())):
        templates.filters["cell"] = cell_in_words
        page = templates.get_template(f"experiment.{suffix}").render(
            t=table,
            figures=pictures,
            research=RESEARCH,
            phantom=PHANTOM,
            baseline=BASELINE,
            main=MAIN,
            labels=LABELS,
        )
        write_whole(out / f"table.{suffix}", page.rstrip() + "\n")
    write_json(out / "table.json", table)


def make_table(
    config: ml_collections.ConfigDict, done: Done, total: int, resamples: int
) -> dict[str, Any]:
    """Returns table.json: each row's figures by split and level, and paired differences.

    "against": row minus baseline. "leak": split by slice minus split by subject, on the same
    slices, which is the gain from training on other slices of the test subjects.
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
            of_row, baseline = seeds.get((name, split)), seeds.get((BASELINE, split))
            if not of_row:
                continue
            rows[name] = {level: row_of(of_row, level, resamples=resamples) for level in LEVELS}
            if name != BASELINE and baseline:
                against[name] = {
                    level: difference_of(of_row, baseline, level, resamples=resamples)
                    for level in LEVELS
                }
                against[name]["verdict"] = verdict(against[name]["subject"])
        table["splits"][split] = {"rows": rows, "against": against}
    for name in names if {"slice", "subject"} <= set(config.splits) else ():
        by_slice, by_subject = (seeds.get((name, split)) for split in ("slice", "subject"))
        if by_slice and by_subject:
            table["leak"][name] = {
                level: difference_of(by_slice, by_subject, level, resamples=resamples)
                for level in LEVELS
            }
    return table


def verdict(difference: Mapping[str, Any]) -> str:
    """Returns what the paired difference from the baseline implies for the ICH figure, in words."""
    above = beats(difference, "ICH AUROC")
    if above is None:
        return "no paired interval"
    if above:
        return "above acquisition and slice selection"
    below = difference["ICH AUROC"]["high"] < 0
    end = ", and below them" if below else ""
    return f"not distinguishable from acquisition and slice selection{end}"


def cell_in_words(figure: Figure | None, sign: bool = False) -> str:
    """Formats a figure as '0.912 (0.845 to 0.956)', with `sign` as '+0.912 (...)'."""
    if not figure or figure["value"] is None:
        return "none"
    form = "{:+.3f}" if sign else "{:.3f}"
    value = form.format(figure["value"])
    if figure["low"] is None:
        return f"{value} (no interval: no variation)"
    return f"{value} ({form.format(figure['low'])} to {form.format(figure['high'])})"


def draw(done: Done, out: Path) -> dict[str, Any]:
    """Draws each row's training curves and confusion matrices, as Figures 5 and 6 of the paper.

    Curves are means over folds and seeds. Matrices count the slices of the first seed.
    """
    drawn: dict[str, Any] = {}
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in done:
        groups[cell.row, cell.split].append(cell)
    for number, ((row, split), members) in enumerate(groups.items()):
        name = f"{number:02d}_{split}"
        history = mean_history([read_history(out / cell.folder) for cell in members])
        if history:
            drawn[f"curves_{name}"] = figures.training_curves(history)
        first_seed = [done[cell] for cell in members if cell.seed == members[0].seed]
        table = joined(first_seed)
        for part in parts(table, by_subject(table)[0]):
            if part.level == "slice" and part.task in TASK_CLASSES and len(part.table):
                drawn[f"matrix_{part.task}_{name}"] = figures.confusion(
                    confusion_of(part, 0.5),
                    TASK_CLASSES[part.task],
                    f"{row}, {split} split: {part.task}",
                    "slices",
                )
    return drawn


def mean_history(histories: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Averages the runs' histories: the n-th evaluation of a split over all runs."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for history in histories:
        count: dict[str, int] = defaultdict(int)
        for row in history:
            groups[row["split"], count[row["split"]]].append(row)
            count[row["split"]] += 1
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
    """Returns whether the data are phantoms, by the first run.json that can be read."""
    for cell in done:
        try:
            record = json.loads((out / cell.folder / "run.json").read_text())
        except (OSError, ValueError):
            continue
        return bool(record["dataset"].get("phantom"))
    return False
