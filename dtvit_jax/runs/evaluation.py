"""Evaluates a trained run, and writes what prediction reads into its folder.

WORKDIR/decision_rule.json, WORKDIR/training_slices.json and WORKDIR/weights.safetensors are of the
best checkpoint and written once: a second evaluation of the same checkpoint leaves them.
"""

import contextlib
import zlib
from pathlib import Path

import numpy as np

from data_builder.errors import InputError
from dtvit_jax.decision import outlier
from dtvit_jax.evaluation import fitted_rule
from dtvit_jax.evaluation.fitted_rule import Choices
from dtvit_jax.evaluation.subgroups import read_facts
from dtvit_jax.reports.evaluation import evaluated, write_evaluation
from dtvit_jax.runs import evaluated_weights
from dtvit_jax.runs.trained_run import TrainedRun

FORM = 4
"""Version of the evaluation's files: an evaluation of another version is repeated."""


def evaluate_run(
    run: TrainedRun,
    workdir: Path,
    split: str,
    out: Path,
    choices: Choices,
    facts_file: Path | None = None,
) -> Path:
    """Evaluates the best checkpoint of the run in `workdir`; returns the report's path.

    Returns at once where `out` holds this evaluation already. facts_file: a manifest.csv (None:
    the splits.csv of the shards, if there is one). Raises InputError.
    """
    model = {
        "checkpoint_step": run.step,
        "checkpoint": run.checksum,
        "dataset_digest": run.record["dataset"]["digest"],
    }
    of = {"form": FORM, "split": split, **model, "choices": repr(choices)}
    if facts_file:
        of["facts"] = zlib.crc32(facts_file.read_bytes()) if facts_file.is_file() else None
    _write_weights(workdir, run)
    report = out / "report.html"
    if report.is_file() and evaluated(out) == of:
        return report
    validation = run.predict("validation") if split == "validation" else None
    rule = fitted_rule.find(workdir, model, choices)
    if rule is None:
        validation = validation or run.predict("validation")
        rule = fitted_rule.fit(validation, choices.aggregation, choices.calibration, model)
        fitted_rule.write(workdir, rule)
    _write_training_slices(workdir, run)
    predictions = validation if validation and split == "validation" else run.predict(split)
    source = run.shards.source(split)
    index = {source.describe(i)["key"]: i for i in range(len(source))}

    def image(key: str) -> np.ndarray | None:
        return source[index[key]]["image"] if key in index else None

    splits_file = run.shards.folder / "splits.csv"
    facts = read_facts(facts_file or splits_file) if facts_file or splits_file.exists() else {}
    record = {**run.record, "checkpoint_step": run.step, "config": run.config.to_dict()}
    fitted_here = split == "validation"
    return write_evaluation(
        out, predictions, rule, facts, record, run.history, image, of, fitted_here=fitted_here
    )


def _write_weights(workdir: Path, run: TrainedRun) -> None:
    """Writes the evaluated weights, unless the file holds those of this checkpoint."""
    of = (run.step, run.record["dataset"]["digest"], run.checksum)
    with contextlib.suppress(InputError):
        origin = evaluated_weights.origin(workdir)
        if (origin.checkpoint_step, origin.dataset_digest, origin.checkpoint) == of:
            return
    evaluated_weights.write(workdir, run.config.model.to_dict(), run.weights(), *of)


def _write_training_slices(workdir: Path, run: TrainedRun) -> None:
    """Writes the statistics of the training slices, unless the file holds those of this data."""
    digest = run.record["dataset"]["digest"]
    with contextlib.suppress(InputError):
        if outlier.read(workdir).dataset == digest:
            return
    training, validation = run.shards.source("train"), run.shards.source("validation")
    outlier.write(workdir, outlier.fit(training, validation, digest))
