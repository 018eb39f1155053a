"""Writes an evaluated run's model, as portable.py makes it, into a folder with all it needs.

The folder holds model.stablehlo or model.onnx or both, the model card, decision_rule.json (the
operating points) and index.json: inputs, outputs, classes, cleaning, versions, and the SHA-256 of
each file. It appears whole or not at all.
"""

import contextlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax
import numpy as np

from data_builder.cleaning import clean
from data_builder.errors import InputError
from data_builder.files import sha256_of, write_json
from data_builder.records import LOCATIONS
from dtvit_jax.decision import rule as decision_rule
from dtvit_jax.evaluation import fitted_rule
from dtvit_jax.reports.evaluation import evaluated
from dtvit_jax.reports.limitations import RESEARCH, TRAINED_ON_PHANTOMS
from dtvit_jax.runs import portable
from dtvit_jax.runs.evaluated_run import ModelFolder, open_model
from dtvit_jax.runs.portable import FORMATS, Answer, Images
from dtvit_jax.training.network import make_network

VERSION = 1
"""Version of index.json."""
INDEX = "index.json"
CARD = "model_card.md"
TOLERANCE = 1e-4
"""Largest difference between a probability of the written file and this program's own."""

MEANINGS = {
    "p_hemorrhage": "probability of hemorrhage, calibrated",
    "p_location": "probability of each location, given hemorrhage, calibrated; rows sum to 1",
    "raw_p_hemorrhage": "the model's own; operating points and aggregation to studies take this",
    "raw_p_location": "the model's own; aggregation to studies takes this",
}


class FileEntry(TypedDict):
    """A file's entry in index.json; the last two are those of a model."""

    sha256: str
    bytes: int
    largest_difference: NotRequired[float]
    platforms: NotRequired[list[str]]


def export(workdir: Path, out: Path, format_name: str) -> bool:
    """Writes the evaluated run in `workdir` to the folder `out`.

    Returns False, and writes nothing, where `out` already holds this model in this format.

    Args:
      workdir: the run's folder.
      out: the folder to write; another format of the same model may be in it.
      format_name: a key of `portable.FORMATS`.

    Raises:
      InputError: the run is not finished or not evaluated, `out` holds something else, an extra
        is not installed, the model is too large for one file, or the file's answers differ from
        the run's.
    """
    folder = open_model(workdir)
    card = model_card(folder)
    config = folder.config.copy_and_resolve_references()
    config.dtype = "float32"
    network = make_network(config)
    variables = folder.weights(network.params, network.stats)
    n_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    if n_bytes > portable.LARGEST:
        raise InputError(
            f"{config.model.name} has {n_bytes / 1e9:.1f} GB of weights: a file of either "
            "format ends at 2 GB; use python -m dtvit_jax.convert WORKDIR --all for its weights"
        )
    index = describe(folder, folder.check(variables))
    earlier = read_earlier(out, index)
    model_file = f"model.{format_name}"
    if model_file in earlier:
        return False
    # The run's own answers are those of its own kernels; the file may need the plain ones.
    own = portable.answer_function(network, variables, folder.rule)
    file_format = FORMATS[format_name]
    portable_network = make_network(config, kernels=file_format.kernels)
    written = portable.answer_function(portable_network, variables, folder.rule)
    size = int(config.data.size)
    with _draft_folder(out, replace=bool(earlier)) as draft:
        model = draft / model_file
        model.write_bytes(file_format.write(written, size))
        difference = largest_difference(own, lambda images: file_format.run(model, images), size)
        entry = file_entry(model)
        entry["largest_difference"] = difference
        if format_name == "stablehlo":
            entry["platforms"] = list(portable.PLATFORMS)
        fitted_rule.write(draft, folder.rule)
        shutil.copyfile(card, draft / CARD)
        entries = {name: file_entry(draft / name) for name in (decision_rule.FILE, CARD)}
        entries[model.name] = entry
        for name in earlier.keys() - entries.keys():
            os.link(out / name, draft / name)
            entries[name] = earlier[name]
        write_json(draft / INDEX, index | {"files": entries})
    return True


@contextlib.contextmanager
def _draft_folder(out: Path, replace: bool) -> Iterator[Path]:
    """Yields a folder that becomes `out` at the end of the block, unless the block raises.

    replace: `out` exists, and is removed then. Raises InputError where it can't be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
            draft = Path(temporary) / "draft"
            draft.mkdir()
            yield draft
            if replace:
                out.rename(Path(temporary) / "earlier")
            draft.rename(out)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}: give another --out") from error


def model_card(folder: ModelFolder) -> Path:
    """The model card of the run's best checkpoint, on test data if there is one.

    Raises InputError where there is none.
    """
    model = {
        "checkpoint_step": folder.origin.checkpoint_step,
        "checkpoint": folder.origin.checkpoint,
        "dataset_digest": folder.record["dataset"]["digest"],
    }
    for split in ("test", "validation"):
        card = folder.workdir / split / CARD
        of = evaluated(card.parent) or {}
        if card.is_file() and {name: of.get(name, "") for name in model} == model:
            return card
    raise InputError(
        f"{folder.workdir} has no model card of its best checkpoint: run python -m "
        f"dtvit_jax.evaluate --workdir {folder.workdir} first"
    )


def describe(folder: ModelFolder, weights_sha256: str) -> dict[str, Any]:
    """index.json without the entry of its files."""
    dataset, rule, cleaning = folder.record["dataset"], folder.rule, folder.cleaning
    size = int(folder.config.data.size)
    fitted = rule.calibrations["slice"]
    return {
        "version": VERSION,
        "notice": [RESEARCH, TRAINED_ON_PHANTOMS] if folder.phantom else [RESEARCH],
        "program": {
            name: importlib.metadata.version(name) for name in ("dtvit-jax", "jax", "flax")
        },
        "model": {
            "name": folder.config.model.name,
            "weights_sha256": weights_sha256,
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
            "in_force": rule.in_force()["slice"],
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


def read_earlier(out: Path, index: dict[str, Any]) -> dict[str, FileEntry]:
    """The files that an earlier export of this model left in `out`; none where there is no `out`.

    Raises InputError where `out` is anything else, or one of the files is damaged.
    """
    if not out.exists():
        return {}
    other = f"{out} holds something else than an export of this model: give another --out"
    try:
        earlier = json.loads((out / INDEX).read_text())
        same = {name: earlier[name] for name in index} == index
        entries: dict[str, FileEntry] = dict(earlier["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(other) from error
    if not same or {path.name for path in out.iterdir()} != {*entries, INDEX}:
        raise InputError(other)
    for name, entry in entries.items():
        if sha256_of(out / name) != entry["sha256"]:
            raise InputError(f"{out}/{name} is damaged: remove the folder and export again")
    return entries


def file_entry(path: Path) -> FileEntry:
    """The hash and length of a file."""
    return {"sha256": sha256_of(path), "bytes": path.stat().st_size}


def largest_difference(
    own: Answer, written: Callable[[Images], dict[str, np.ndarray]], size: int
) -> float:
    """The largest difference of two models' outputs, on batches of 3 and 1 synthetic slices.

    Raises InputError above TOLERANCE.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, -(-size // 8), -(-size // 8)))
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :size, :size].astype(np.uint8)
    largest, expected = 0.0, jax.jit(own)(images)
    for n in (3, 1):
        outputs = written(images[:n])
        largest = max(
            largest,
            *(float(np.abs(outputs[k] - v[:n]).max()) for k, v in expected.items()),
        )
    if not largest <= TOLERANCE:  # so that nan is refused too
        raise InputError(
            f"the written model's probabilities differ from the run's by {largest:.1g}: nothing "
            "was kept; please report it with the run's config.json"
        )
    return largest
