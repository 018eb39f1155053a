"""Reads weights from safetensors, npz and pth files, and writes safetensors.

The format of a file is detected from its first bytes, not from its name.
"""

import importlib.util
import json
import mmap
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from data_builder.errors import InputError, first_line
from data_builder.files import draft_of
from dtvit_jax.runtime import ALIGNMENT
from dtvit_jax.weights import torch_zip

Arrays = dict[str, np.ndarray]


class Weights(NamedTuple):
    """Arrays under the names of their source, a file or a run, and its header."""

    path: Path
    arrays: Arrays
    header: dict[str, str]


def read(path: Path) -> Weights:
    """Reads a `.safetensors`, `.npz` (NumPy) or `.pth` file (PyTorch, zip and legacy).

    The header is that of safetensors, empty for other formats. A legacy `.pth` needs torch. No
    format may run code: pickles are read by `torch_zip` or torch's `weights_only`, or refused.

    Raises:
        InputError: the file does not exist, has none of these formats, is damaged or holds code,
            or it needs torch, which is not installed.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder; give a .safetensors, .npz or .pth file")
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = archive.namelist()
            if members and all(member.endswith(".npy") for member in members):
                with np.load(path, allow_pickle=False) as file:
                    return Weights(path, {name: file[name] for name in file.files}, {})
            return Weights(path, _checked(path, _state_dict(path, torch_zip.read(path))), {})
        with path.open("rb") as file:
            start = file.read(9)
        if len(start) == 9 and start[8:] == b"{":  # safetensors: 8 bytes of length, then JSON
            with safetensors.safe_open(path, "numpy") as file:  # checks the header
                return Weights(path, _mapped(path), file.metadata() or {})
        if is_legacy(path):
            state = _state_dict(path, _load_legacy(path))
            arrays = {name: _from_tensor(value) for name, value in state.items()}
            return Weights(path, _checked(path, arrays), {})
        if start[:2] == b"PK":  # a zip archive without its end, which holds the table of contents
            raise InputError(f"{path}: damaged file of weights: its end is missing")
    except _DAMAGED as error:
        raise InputError(f"{path}: damaged file of weights: {first_line(error)}") from error
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: damaged safetensors file: {first_line(error)}") from error
    raise InputError(f"{path}: not a file of weights; give a .safetensors, .npz or .pth file")


_DAMAGED = (OSError, ValueError, EOFError, NotImplementedError, struct.error, zipfile.BadZipFile)
"""What NumPy and zipfile raise for damaged bytes."""

_MAPPED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}
_STORED = {np.dtype(kind): name for name, kind in _MAPPED.items()}


def _mapped(path: Path) -> Arrays:
    """A safetensors file's arrays as views of the mapped file: pages are read when used."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header.pop("__metadata__", None)
    if any(entry["dtype"] not in _MAPPED for entry in header.values()):
        return safetensors.numpy.load_file(path)
    pages.madvise(mmap.MADV_WILLNEED)  # the disk reads ahead while the program continues
    content = np.frombuffer(pages, np.uint8)[8 + length :]
    return {
        name: content[slice(*entry["data_offsets"])]
        .view(_MAPPED[entry["dtype"]])
        .reshape(entry["shape"])
        for name, entry in header.items()
    }


def is_legacy(path: Path) -> bool:
    """Whether a file begins as a pickle: PyTorch before 1.6 wrote weights so."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[:1] == b"\x80" and start[8:] != b"{"  # safetensors has a JSON object there


def check_torch(source: Path | str) -> None:
    """Raises InputError where torch is not installed, which `source`, a legacy `.pth`, needs."""
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            f"{source}: a .pth file of PyTorch before 1.6 needs PyTorch: "
            "pip install 'dtvit-jax[torch]'"
        )


def _load_legacy(path: Path) -> Any:
    """What a `.pth` of PyTorch before 1.6 holds."""
    check_torch(path)
    import torch

    try:
        return torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused: its pickle is damaged, or holds more than weights and could run code"
        ) from error
    except Exception as error:  # torch raises many types for damaged bytes
        line = first_line(error).split(". ")[0]
        raise InputError(f"{path}: damaged .pth file: {line}") from error


def _from_tensor(value: Any) -> Any:
    """A tensor of torch as an array, bfloat16 as float32; anything else as it is."""
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _state_dict(path: Path, state: Any) -> dict[Any, Any]:
    """The state dict of a `.pth`, also where it is nested under 'state_dict' or 'model'."""
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds a {type(state).__name__}, not a dict of tensors by name")
    return state


def _checked(path: Path, state: dict[Any, Any]) -> Arrays:
    """A state dict, all of whose values are arrays under names; raises InputError otherwise."""
    for name, array in state.items():
        if not isinstance(name, str):
            raise InputError(f"{path}: has {name!r} for a tensor's name: give a state dict")
        if not isinstance(array, np.ndarray):
            raise InputError(f"{path}: {name!r} is a {type(array).__name__}, not a tensor")
    return state


def write(path: Path, arrays: Arrays, header: dict[str, str]) -> None:
    """Writes a safetensors file, whole or not at all; the same arrays give the same bytes.

    Arrays begin at multiples of `ALIGNMENT` bytes, so that JAX uses those of a mapped file without
    a copy. Arrays whose length is no such multiple come last: the format allows no gaps.

    Raises:
        InputError: the file can't be written.
    """
    entries: dict[str, Any] = {"__metadata__": header}
    names = sorted(arrays, key=lambda name: (arrays[name].nbytes % ALIGNMENT != 0, name))
    begin = 0
    for name in names:
        array = arrays[name]
        end = begin + array.nbytes
        entries[name] = {
            "dtype": _STORED[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()
    text = text.ljust(-(-(8 + len(text)) // ALIGNMENT) * ALIGNMENT - 8)
    try:
        with draft_of(path) as draft, draft.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
    except OSError as error:
        raise InputError(f"{path}: can't be written: {first_line(error)}") from error
