"""Writes a run's model for programs without this package: StableHLO or ONNX, in a folder.

DIR holds model.stablehlo or model.onnx, the model card, decision_rule.json (the operating points)
and index.json: inputs, outputs, classes, cleaning, versions, and the SHA-256 of each file. The
model takes cleaned 8-bit slices at the size of the shards and gives calibrated probabilities. A
second format goes into the same DIR; a model that is there already is not written again.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_builder.cleaning import clean
from data_builder.errors import InputError, run_command
from data_builder.files import write_json
from data_builder.records import LOCATIONS
from dtvit_jax.decision import rule as decision_rule
from dtvit_jax.evaluation import fitted_rule
from dtvit_jax.reports.limitations import PHANTOM, RESEARCH
from dtvit_jax.runs import portable
from dtvit_jax.runs.evaluated_run import ModelFolder, open_model
from dtvit_jax.training.failures import EXIT_STATUS
from dtvit_jax.training.network import make_network

EXAMPLE = "python -m dtvit_jax.export --workdir runs/phantom --out exported --format stablehlo"
VERSION = 1
"""Of index.json."""
INDEX = "index.json"
CARD = "model_card.md"
TOLERANCE = 1e-4
"""Most by which a probability of the written file may differ from this program's own."""

WRITERS: dict[str, Callable[..., bytes]] = {
    "stablehlo": portable.to_stablehlo,
    "onnx": portable.to_onnx,
}
RUNNERS = {"stablehlo": portable.run_stablehlo, "onnx": portable.run_onnx}
MEANINGS = {
    "p_hemorrhage": "probability of hemorrhage, calibrated",
    "p_location": "probability of each location, given hemorrhage, calibrated; rows sum to 1",
    "raw_p_hemorrhage": "the model's own; operating points and aggregation to studies take this",
    "raw_p_location": "the model's own; aggregation to studies takes this",
}


def export(workdir: Path, out: Path, form: str) -> bool:
    """Writes the run in `workdir` to `out`; False where it was there, whole, before.

    Raises:
      InputError: the run is not finished or not evaluated, `out` holds something else, an extra
        is missing, the model is too large for one file, or the file's answers are not the run's.
    """
    folder = open_model(workdir)
    card = _card(folder)
    config = folder.config.copy_and_resolve_references()
    config.dtype = "float32"
    network = make_network(config)
    params, stats = folder.weights(network.params, network.stats)
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves((params, stats)))
    if needed > portable.LARGEST:
        raise InputError(
            f"{config.model.name} has {needed / 1e9:.1f} GB of weights: a file of either "
            "format ends at 2 GB; use python -m dtvit_jax.convert WORKDIR --all for its weights"
        )
    index = describe(folder, folder.check((params, stats)))
    earlier = _earlier(out, index, form)
    if earlier is not None and f"model.{form}" in earlier["files"]:
        return False
    size = int(config.data.size)
    answer = portable.answer_function(network, params, stats, folder.rule)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as place:
            draft = Path(place) / "draft"
            draft.mkdir()
            model = draft / f"model.{form}"
            model.write_bytes(WRITERS[form](answer, size))
            differs = largest_difference(answer, lambda images: RUNNERS[form](model, images), size)
            index["files"] = {model.name: _facts(model) | {"largest_difference": differs}}
            if form == "stablehlo":
                index["files"][model.name]["platforms"] = list(portable.PLATFORMS)
            fitted_rule.write(draft, folder.rule)
            shutil.copyfile(card, draft / CARD)
            index["files"] |= {name: _facts(draft / name) for name in (decision_rule.FILE, CARD)}
            for name, facts in (earlier or {"files": {}})["files"].items():
                if name not in index["files"]:
                    os.link(out / name, draft / name)
                    index["files"][name] = facts
            write_json(draft / INDEX, index)
            if earlier is not None:
                out.rename(Path(place) / "earlier")
            draft.rename(out)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}: give another --out") from error
    return True


def _card(folder: ModelFolder) -> Path:
    """The model card of the run's best checkpoint. Raises InputError."""
    model = {
        "checkpoint_step": folder.origin.checkpoint_step,
        "dataset_digest": folder.record["dataset"]["digest"],
    }
    for split in ("test", "validation"):
        card = folder.workdir / split / CARD
        try:
            of = json.loads((folder.workdir / split / "metrics.json").read_text())["of"]
        except (OSError, ValueError, KeyError):
            continue
        if card.is_file() and {name: of.get(name) for name in model} == model:
            return card
    raise InputError(
        f"{folder.workdir} has no model card of its best checkpoint: run python -m "
        f"dtvit_jax.evaluate --workdir {folder.workdir} first"
    )


def describe(folder: ModelFolder, weights: str) -> dict[str, Any]:
    """index.json without its files. weights: their SHA-256 (`ModelFolder.check`)."""
    dataset, rule, cleaning = folder.record["dataset"], folder.rule, folder.cleaning
    size = int(folder.config.data.size)
    fitted = rule.calibrations["slice"]
    return {
        "version": VERSION,
        "notice": [RESEARCH, PHANTOM] if folder.phantom else [RESEARCH],
        "program": {
            name: importlib.metadata.version(name) for name in ("dtvit-jax", "jax", "flax")
        },
        "model": {
            "name": folder.config.model.name,
            "weights_sha256": weights,
            "checkpoint_step": folder.origin.checkpoint_step,
            "dataset_digest": dataset["digest"],
            "phantom": folder.phantom,
        },
        "input": {
            "name": "images",
            "dtype": "uint8",
            "shape": ["batch", size, size],
            "meaning": "cleaned slices: 0 outside the head, padded with 0 to a square, resized "
            "bilinearly with antialiasing; crop, windows and normalisation are in the model",
        },
        "cleaning": {
            "mode": cleaning.mode,
            "version": clean.VERSION,
            "window_hu": list(clean.WINDOW),
            "stated_by_the_data": cleaning.stated,
        },
        "outputs": {
            name: {"dtype": "float32", "shape": list(shape), "meaning": MEANINGS[name]}
            for name, shape in portable.OUTPUTS.items()
        },
        "classes": {"hemorrhage": ["no hemorrhage", "hemorrhage"], "location": list(LOCATIONS)},
        "calibration": {
            "method": rule.method,
            "level": "slice",
            "applied": {
                "hemorrhage": fitted["hemorrhage"].used(rule.method, 2),
                "location": fitted["location"].used(rule.method, portable.PLACES),
            },
        },
        "aggregation": rule.raw["aggregation"]["words"],
        "operating_points": [
            {name: point[name] for name in ("name", "level", "threshold", "words")}
            for point in rule.raw["operating_points"]
            if point["threshold"] is not None
        ],
    }


def _earlier(out: Path, index: dict[str, Any], form: str) -> dict[str, Any] | None:
    """What `out` holds of this model, whole; None where there is no such folder.

    Raises InputError where it holds anything else.
    """
    if not out.exists():
        return None
    other = f"{out} holds something else than an export of this model: give another --out"
    try:
        found = json.loads((out / INDEX).read_text())
        same = {name: found[name] for name in index} == index
        files = dict(found["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(other) from error
    if not same or {path.name for path in out.iterdir()} != {*files, INDEX}:
        raise InputError(other)
    for name, facts in files.items():
        if _facts(out / name)["sha256"] != facts["sha256"]:
            raise InputError(f"{out}/{name} is damaged: remove the folder and export again")
    return found


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def largest_difference(
    answer: portable.Answer, written: Callable[[np.ndarray], dict[str, np.ndarray]], size: int
) -> float:
    """The most by which two forms of a model differ, over batches of 3 and 1 made-up slices.

    Raises InputError above TOLERANCE.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, -(-size // 8), -(-size // 8)))
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :size, :size].astype(np.uint8)
    found, ours = 0.0, jax.jit(answer)(images)
    for n in (3, 1):
        theirs = written(images[:n])
        found = max(found, *(float(np.abs(theirs[k] - v[:n]).max()) for k, v in ours.items()))
    if not found <= TOLERANCE:
        raise InputError(
            f"the written model's probabilities differ from the run's by {found:.1g}: nothing was "
            "kept; please report it with the run's config.json"
        )
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m dtvit_jax.export", description=__doc__, epilog=f"example: {EXAMPLE}"
    )
    top.add_argument("--workdir", type=Path, required=True, help="an evaluated run")
    top.add_argument("--out", type=Path, required=True, help="folder to write")
    top.add_argument("--format", choices=tuple(WRITERS), default="stablehlo")
    return top


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    args = parser().parse_args(argv)
    # A plain SIGTERM would leave the draft behind.
    before = signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(EXIT_STATUS[signal.SIGTERM])
    )

    def command() -> int:
        written = export(args.workdir, args.out, args.format)
        print(f"{args.out}: model.{args.format}" + ("" if written else ", there already"))
        return 0

    try:
        return run_command(command, "stopped; nothing was written")
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
