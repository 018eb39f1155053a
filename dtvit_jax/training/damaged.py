"""What is done about a checkpoint whose files are damaged: noticed, reported and moved aside.

Orbax does not notice flipped bits, so each checkpoint holds checksums of its state, computed on the
devices that hold the arrays. It reads the validation figures of all checkpoints of a folder, so
these are checked before it does.
"""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_builder.errors import InputError


class Damaged(InputError):
    """A checkpoint whose content is not what was saved."""


def step_folders(workdir: Path) -> list[Path]:
    """The folders of checkpoints, oldest first."""
    folders = [path for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]
    return sorted(folders, key=lambda path: int(path.name))


@contextmanager
def saying(workdir: Path, step: int, mend: str = "") -> Iterator[None]:
    """Raises Damaged in place of an error of reading checkpoint `step` of `workdir`.

    Folders are named as `workdir` is, never by the absolute path that Orbax has.
    """
    try:
        yield
    except Exception as error:  # Orbax raises a bare Exception where an array can't be read
        folder = workdir / "checkpoints" / str(step)
        why = _why(error).replace(str(folder.absolute()), str(folder))[:80]
        raise Damaged(f"{folder}: a damaged checkpoint ({why}){mend}") from error


def refuse_figures(workdir: Path, best: str) -> None:
    """Raises Damaged where a checkpoint's validation figures can't be read, `best` among them."""
    for _, description in _damaged_figures(workdir, best):
        raise Damaged(
            f"{description}: the command that trained the run moves this checkpoint aside and goes "
            "on from the one before"
        )


def set_aside_figures(workdir: Path, best: str) -> None:
    """Moves such checkpoints to workdir/damaged. Raises InputError where none is left then."""
    damaged = _damaged_figures(workdir, best)
    for folder, description in damaged:
        place = move_aside(workdir, folder)
        print(f"{description}: the checkpoint is moved to {place}", file=sys.stderr)
    if damaged and not step_folders(workdir):
        raise none_left(workdir)


def _damaged_figures(workdir: Path, best: str) -> list[tuple[Path, str]]:
    """Each checkpoint whose validation figures can't be read, oldest first, and a description."""
    damaged = []
    for folder in step_folders(workdir):
        path = folder / "metrics" / "metrics"
        try:
            if not math.isfinite(json.loads(path.read_text())[best]):
                raise ValueError(f"its {best} is not finite")
        except FileNotFoundError:  # a checkpoint between two validations
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            damaged.append((folder, f"{path} is damaged ({_why(error)[:80]})"))
    return damaged


def move_aside(workdir: Path, folder: Path) -> Path:
    """Moves a checkpoint's folder into workdir/damaged; returns its new path."""
    place = workdir / "damaged"
    place.mkdir(exist_ok=True)
    number = sum(1 for _ in place.iterdir())
    return folder.rename(place / f"{folder.name}_{number}")


def none_left(workdir: Path) -> InputError:
    """The error where every checkpoint was damaged."""
    return InputError(
        f"no whole checkpoint is left in {workdir} (the damaged are in {workdir / 'damaged'}): "
        "train again into a new --workdir"
    )


def _why(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def checksums(fields: dict[str, Any]) -> dict[str, int]:
    """A sum of each field's bits, computed where they are; any flipped bit changes it."""
    parts = jax.device_get(jax.tree.map(_bits, fields))
    return {name: sum(map(int, jax.tree.leaves(part))) % 2**32 for name, part in parts.items()}


def check(fields: dict[str, Any], saved: dict[str, int]) -> None:
    """Raises ValueError where a field's checksum differs from the saved one."""
    for name, value in checksums(fields).items():
        if value != saved[name]:
            raise ValueError(f"the checksum of its {name} differs")


def _bits(x: Any) -> Any:
    if isinstance(x, np.ndarray):  # on the host: nothing to compile or to copy
        bits = np.ascontiguousarray(x).reshape(-1).view(f"uint{8 * x.itemsize}")
        return bits.sum(dtype=np.uint32)
    return _bits_on_device(x)


@jax.jit
def _bits_on_device(x: jax.Array) -> jax.Array:
    kind = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(x, kind).sum(dtype=jnp.uint32)
