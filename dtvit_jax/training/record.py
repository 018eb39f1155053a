"""What a run leaves beside its checkpoints: config.json, run.json, history.jsonl."""

import importlib.metadata
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import ml_collections

from configs import vit_l
from data_builder.errors import InputError
from data_builder.files import hold
from dtvit_jax.data import augment

FORMAT = 2
"""Of a run's folder: raised by every change after which an older folder can't be read, or an older
program would misread a new one. 2: checkpoints with averages and checksums.
"""

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "numpy",
)
PRIVATE = ("source", "key")
"""Fields of config.data that name places on the user's disk; they are not written."""
FREE_TO_CHANGE = (
    "num_epochs",
    "num_steps",
    "eval_batch_size",
    "mesh",
    "aggregation",
    "calibration",
    "early_stopping",
    "keep",
    "log_every_steps",
    "profile",
)
"""Fields that a continued run may change."""


def write_json(path: Path, value: Any) -> None:
    """Writes JSON through a draft, so that a reader never meets half a file."""
    draft = path.with_name(path.name + ".draft")
    draft.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    draft.replace(path)


def public_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as plain values, without what names places on the user's disk."""
    values = json.loads(config.to_json_best_effort())
    for name in PRIVATE:
        values["data"].pop(name, None)
    return values


def claim_workdir(
    workdir: Path, config: ml_collections.ConfigDict, saved: dict[str, Any] | None = None
) -> None:
    """Holds the workdir and writes config.json, or checks that the run in it is this one.

    `saved` is the config in the run's last checkpoint, if it has one: config.json may be gone.

    Raises:
      InputError: it can't be written, another process is at it, or it holds a run with another
        config.
    """
    values = public_config(config)
    path = workdir / "config.json"
    hold(workdir, "--workdir")
    try:
        known = [json.loads(path.read_text())] if path.exists() else []
        for earlier in [*known, *([saved] if saved else [])]:
            differ = differences(earlier, values)
            differ = [name for name in differ if name.split(".")[0] not in FREE_TO_CHANGE]
            if differ:
                raise InputError(
                    f"{workdir} holds a run with another config ({', '.join(sorted(differ))}): "
                    "give another --workdir, or the same config to go on"
                )
        write_json(path, values)
    except OSError as error:
        raise InputError(
            f"cannot write to {workdir}: {error.strerror}: give another --workdir"
        ) from error


def differences(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two configs differ."""
    found = []
    for name in sorted(one.keys() | other.keys()):
        a, b = one.get(name), other.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(prefix + name)
    return found


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """The config of the run in `workdir`. Raises InputError where there is none."""
    try:
        values = json.loads((workdir / "config.json").read_text())
        for name in PRIVATE:
            values["data"][name] = ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{workdir} holds no run (config.json is missing or damaged): give a --workdir that "
            "python -m dtvit_jax.main has trained in"
        ) from error
    return ml_collections.ConfigDict(_filled(values), convert_dict=True)


def _filled(values: dict[str, Any]) -> dict[str, Any]:
    """The config of an older run with the fields that are newer, as the paper's recipe has them.

    A model's own options are left alone: they differ from model to model.
    """
    for name, default in json.loads(vit_l.get_config().to_json_best_effort()).items():
        if name not in values:
            values[name] = default
        elif isinstance(default, dict) and name != "model":
            values[name] = {**default, **values[name]}
    return values


def read_record(workdir: Path) -> dict[str, Any]:
    """run.json. Raises InputError where it is missing, damaged or of another format."""
    try:
        record = json.loads((workdir / "run.json").read_text())
        found = record.get("format", 1), record.get("transform_version", 1)
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{workdir}/run.json is missing or damaged: train again into a new workdir"
        ) from error
    for what, one, own in zip(
        ("a run folder", "a transform"), found, (FORMAT, augment.VERSION), strict=True
    ):
        if one != own:
            raise InputError(
                f"{workdir} is of {what} of version {one}, this program reads version {own}: use "
                "the program's version that trained it, or train again"
            )
    return record


def describe_run(
    command: str, config: ml_collections.ConfigDict, dataset: dict, parameters: int
) -> dict[str, Any]:
    """run.json: versions, commit, device, seed, data set; with what a reader could repeat it."""
    device = jax.devices()[0]
    return {
        "format": FORMAT,
        "transform_version": augment.VERSION,
        "command": command,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES}
        | {
            "dtvit-jax": importlib.metadata.version("dtvit-jax"),
            "python": platform.python_version(),
        },
        "git_commit": git_commit(),
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "seed": config.seed,  # of the weights, the data's order, augmentation and dropout
        "split_seed": config.data.seed,
        "model": config.model.name,
        "parameters": parameters,
        "dataset": dataset,
    }


def git_commit() -> str:
    """The commit of this program's checkout, '+' behind it if files differ; '' outside one."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("+" if changed else "")


def write_history(workdir: Path, history: list[dict[str, Any]]) -> None:
    """history.jsonl, one object a line, whole each time."""
    draft = workdir / "history.jsonl.draft"
    draft.write_text("".join(json.dumps(row) + "\n" for row in history))
    draft.replace(workdir / "history.jsonl")


def read_history(workdir: Path) -> list[dict[str, Any]]:
    """The rows of history.jsonl; none where it is missing."""
    path = workdir / "history.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
