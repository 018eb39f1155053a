"""The weights of a run's evaluated checkpoint in one safetensors file, mapped instead of read.

WORKDIR/weights.safetensors is a file as `convert --all` writes it, whose header also has the
checkpoint's step, the data set's digest and the digest of the weights. Starting a model from it
saves reading a checkpoint, which takes time and two copies of all weights in memory.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_builder.errors import InputError
from dtvit_jax.models.variables import Tree, Variables
from dtvit_jax.weights import files, load
from dtvit_jax.weights.save import save

FILE = "weights.safetensors"


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the weights come from: the checkpoint's step, the data set's digest, their own.

    `checkpoint` is `Checkpoints.model_checksum`, empty in the file of an earlier version.
    """

    checkpoint_step: int
    dataset_digest: str
    weights_sha256: str
    checkpoint: str = ""


def write(
    workdir: Path,
    model: Mapping[str, Any],
    variables: Variables,
    step: int,
    dataset: str,
    checkpoint: str = "",
) -> None:
    """Writes the file, whole or not at all. Raises InputError where it can't be written.

    Args:
        workdir: the run's folder.
        model: config.model.
        variables: of the evaluated checkpoint.
        step: of the checkpoint.
        dataset: digest of the data set.
        checkpoint: as in `Origin`.
    """
    origin = Origin(step, dataset, digest(variables), checkpoint)
    header = {name: str(value) for name, value in dataclasses.asdict(origin).items()}
    save(workdir / FILE, model, *variables, heads=True, header=header)


def origin(workdir: Path) -> Origin:
    """The origin in the file's header. Raises InputError where the file is missing or damaged."""
    path = workdir / FILE
    if path.is_file():
        header = files.read(path).header
        try:
            return Origin(
                int(header["checkpoint_step"]),
                header["dataset_digest"],
                header["weights_sha256"],
                header.get("checkpoint", ""),
            )
        except (KeyError, ValueError):
            pass  # such as a file of `convert --all`, whose header has no origin
    raise InputError(
        f"{path} is missing or no evaluated run's: run python -m dtvit_jax.evaluate --workdir "
        f"{workdir} again"
    )


def read(workdir: Path, model: Mapping[str, Any], params: Tree, stats: Tree) -> Variables:
    """Parameters and statistics as views of the mapped file, in the nesting of `params`, `stats`.

    Raises InputError where they do not fit `model` (config.model).
    """
    return load.load_into(files.read(workdir / FILE), model, params, stats, heads=True)


def digest(variables: Variables) -> str:
    """SHA-256 over the name, type, shape and bytes of every array, in the order of names."""
    params, stats = map(load.flatten, variables)
    return digest_of({**params, **stats})


def digest_of(arrays: Mapping[str, Any]) -> str:
    """The digest of a model whose arrays have these names (`load.flatten`)."""
    sha256 = hashlib.sha256()
    for name, leaf in sorted(arrays.items()):
        array = np.ascontiguousarray(leaf)
        sha256.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha256.update(array.reshape(-1).view(np.uint8).data)
    return sha256.hexdigest()


def check(workdir: Path, variables: Variables, origin: Origin) -> str:
    """The digest of `variables`. Raises InputError where it differs from the one in `origin`."""
    sha256 = digest(variables)
    if sha256 != origin.weights_sha256:
        raise InputError(
            f"{workdir / FILE} is damaged: remove it and run python -m dtvit_jax.evaluate "
            f"--workdir {workdir} again"
        )
    return sha256
