"""Writes and reads what a run keeps beside its checkpoints: config.json, run.json, history."""

import importlib.metadata
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax
import ml_collections

from configs import vit_l
from data_builder.errors import InputError
from data_builder.files import hold, write_json, write_whole
from dtvit_jax.data import augment
from dtvit_jax.weights import hub

FORMAT = 2
"""The version of a run's folder.

It rises with every change after which an older folder can't be read, or an older program would
misread a new one. 2: checkpoints with averages and checksums.
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
PRIVATE = ("source", "key", "dir")
"""Fields of config.data that name paths of the user; they are not written."""
_DIGESTS = ("sha256:", "weights:")
"""Prefixes of config.init_from in place of a path (`dtvit_jax.train`)."""
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
    "model.attention",
)
"""Fields that a continued run may change."""

HistoryRow = dict[str, Any]
"""One side's figures at one validation.

`step` and `epoch` that were done, `split` ('train': the steps since the validation before, or
'validation'), and the figures of `steps.mean_figures` and `validation.slice_metrics` by name.
"""


class RunRecord(TypedDict):
    """run.json."""

    format: int
    transform_version: int
    command: str
    versions: dict[str, str]
    git_commit: str
    device: str
    started: str
    seed: int  # of the weights, the data's order, augmentation and dropout
    split_seed: int
    model: str
    parameters: int
    dataset: dict[str, Any]  # the data set's metadata.json
    train_seconds: NotRequired[float]  # once the run is finished
    waited_for_data_seconds: NotRequired[float]


def public_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as plain values, without its PRIVATE fields."""
    values = json.loads(config.to_json_best_effort())
    for name in PRIVATE:
        values["data"].pop(name, None)
    return values


def claim_workdir(
    workdir: Path, config: ml_collections.ConfigDict, saved: dict[str, Any] | None = None
) -> None:
    """Holds the workdir and writes config.json, after a check that a run in it has this config.

    Args:
      workdir: the run's folder; made if need be.
      config: of the run that begins or continues.
      saved: the config in the run's last checkpoint, if there is one: config.json may be gone.

    Raises:
      InputError: the folder can't be written, another process holds it, or it holds a run with
        another config (FREE_TO_CHANGE apart).
    """
    values = public_config(config)
    path = workdir / "config.json"
    hold(workdir, "--workdir")
    try:
        on_disk = [_earlier(path)] if path.exists() else []
        for earlier in [*on_disk, *([saved] if saved else [])]:
            names = differences(_comparable(earlier, values), values)
            names = [name for name in names if not {name, name.split(".")[0]} & set(FREE_TO_CHANGE)]
            if names:
                raise InputError(
                    f"{workdir} holds a run with another config ({', '.join(sorted(names))}): "
                    "give another --workdir, or the same config to go on"
                )
        write_json(path, values)
    except OSError as error:
        raise InputError(
            f"cannot write to {workdir}: {error.strerror}: give another --workdir"
        ) from error


def _earlier(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise ValueError("no config")
    except ValueError as error:
        raise InputError(
            "config.json of --workdir is damaged: restore it, or remove it, and the same command "
            "writes it again"
        ) from error
    return values


def _comparable(earlier: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The config of an earlier run without what only older versions wrote: paths of the user.

    An older config's path of initial weights can't be compared with their digest: it counts as
    the same.
    """
    data = {k: v for k, v in earlier.get("data", {}).items() if k not in PRIVATE}
    start = earlier.get("init_from", "")
    if values["init_from"].startswith(_DIGESTS) and not (
        start == "scratch" or start.startswith(_DIGESTS) or hub.is_published(start)
    ):
        start = values["init_from"]
    return {**earlier, "data": data, "init_from": start}


def differences(first: dict[str, Any], second: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two configs differ."""
    names = []
    for name in sorted(first.keys() | second.keys()):
        a, b = first.get(name), second.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            names += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            names.append(prefix + name)
    return names


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """The config of the run in `workdir`. Raises InputError where there is none.

    data.dir is empty, but for runs of older versions, which wrote it.
    """
    try:
        values = json.loads((workdir / "config.json").read_text())
        values["data"] = {"dir": "", **values["data"], "source": "", "key": ""}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{workdir} holds no run (config.json is missing or damaged): give a --workdir that "
            "python -m dtvit_jax.main has trained in"
        ) from error
    return ml_collections.ConfigDict(_filled(values), convert_dict=True)


def _filled(values: dict[str, Any]) -> dict[str, Any]:
    """The config of an older run with newer fields added, at the values of the paper's recipe.

    A model's own options are left alone: they differ from model to model.
    """
    for name, default in json.loads(vit_l.get_config().to_json_best_effort()).items():
        if name not in values:
            values[name] = default
        elif isinstance(default, dict) and name != "model":
            values[name] = {**default, **values[name]}
    return values


def read_record(workdir: Path) -> RunRecord:
    """run.json. Raises InputError where it is missing, damaged or of another format."""
    try:
        record = json.loads((workdir / "run.json").read_text())
        versions = record.get("format", 1), record.get("transform_version", 1)
        str(record["dataset"]["digest"])
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            "run.json of --workdir is missing or damaged: restore it, or remove it and give the "
            "command that trained the run again, which writes a new one"
        ) from error
    for what, version, own in zip(
        ("run folder", "transform"), versions, (FORMAT, augment.VERSION), strict=True
    ):
        if version != own:
            raise InputError(
                f"{workdir} has version {version} of the {what}, this program reads version {own}: "
                "use the version of the program that trained it, or train again"
            )
    return record


def describe_run(
    command: str, config: ml_collections.ConfigDict, dataset: dict[str, Any], parameters: int
) -> RunRecord:
    """The content of run.json: what a reader needs to repeat the run."""
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
        "seed": config.seed,
        "split_seed": config.data.seed,
        "model": config.model.name,
        "parameters": parameters,
        "dataset": dataset,
    }


def git_commit() -> str:
    """The commit of this program's checkout, with '+' where files differ; '' outside of one."""

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


def write_history(workdir: Path, history: list[HistoryRow]) -> None:
    """Writes history.jsonl, one row a line, unless it holds these rows."""
    path = workdir / "history.jsonl"
    lines = "".join(json.dumps(row) + "\n" for row in history)
    if not path.exists() or path.read_bytes() != lines.encode():
        write_whole(path, lines)


def read_history(workdir: Path) -> list[HistoryRow]:
    """The rows of history.jsonl; none where it is missing.

    Raises InputError where it is damaged.
    """
    path = workdir / "history.jsonl"
    if not path.exists():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if not all({"step", "split"} <= row.keys() for row in rows):
            raise ValueError("a row without its step or side")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            "history.jsonl of --workdir is damaged: give the command that trained the run again, "
            "which writes it from the last checkpoint"
        ) from error
    return rows
