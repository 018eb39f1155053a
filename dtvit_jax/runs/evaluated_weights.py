"""The evaluated weights of a run in a file of their own, which is mapped instead of read.

WORKDIR/weights.safetensors is what `convert --all` writes, with the checkpoint, the data set and
the digest in its header. It takes a checkpoint's reading, two copies of all weights, off the start.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_builder.errors import InputError
from dtvit_jax.weights import files, load
from dtvit_jax.weights.save import save

FILE = "weights.safetensors"

Weights = tuple[dict[str, Any], dict[str, Any]]
"""Parameters and batch statistics, nested dicts of arrays."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """Whose weights they are: the checkpoint's step, the data set's digest, their own digest."""

    checkpoint_step: int
    dataset_digest: str
    weights_sha256: str


def write(
    workdir: Path, model: Mapping[str, Any], weights: Weights, step: int, dataset: str
) -> None:
    """Writes them, whole or not at all. model: config.model. Raises InputError."""
    origin = Origin(step, dataset, digest(weights))
    header = {name: str(value) for name, value in dataclasses.asdict(origin).items()}
    save(workdir / FILE, model, *weights, heads=True, header=header)


def origin(workdir: Path) -> Origin:
    """What the file says of itself. Raises InputError where it is missing or damaged."""
    path = workdir / FILE
    if path.is_file():
        header = files.read(path).header
        try:
            step, *others = (header[field.name] for field in dataclasses.fields(Origin))
            return Origin(int(step), *others)
        except (KeyError, ValueError):
            pass
    raise InputError(
        f"{path} is missing or no evaluated run's: run python -m dtvit_jax.evaluate --workdir "
        f"{workdir} again"
    )


def read(workdir: Path, model: Mapping[str, Any], params: Any, stats: Any) -> Weights:
    """Parameters and statistics, as views of the file's pages, in trees like those given (shapes).

    Raises InputError where they are of another model than `model`, config.model.
    """
    return load.load_into(files.read(workdir / FILE), model, params, stats, heads=True)


def digest(weights: Weights) -> str:
    """SHA-256 over every parameter's and statistic's name, type, shape and bytes, in name order."""
    params, stats = map(load.flatten, weights)
    found = hashlib.sha256()
    for name, leaf in sorted({**params, **stats}.items()):
        value = np.ascontiguousarray(leaf)
        found.update(f"{name} {value.dtype} {value.shape}\n".encode())
        found.update(value.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def check(workdir: Path, weights: Weights, said: Origin) -> str:
    """Their digest. Raises InputError where it is not the one that was written with them."""
    found = digest(weights)
    if found != said.weights_sha256:
        raise InputError(
            f"{workdir / FILE} is damaged: remove it and run python -m dtvit_jax.evaluate "
            f"--workdir {workdir} again"
        )
    return found
