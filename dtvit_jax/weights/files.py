"""Reads a file of weights into arrays by name. What it is, its first bytes tell, not its name."""

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

from data_builder.errors import InputError
from dtvit_jax.runtime import ALIGNMENT

Arrays = dict[str, np.ndarray]


class Weights(NamedTuple):
    """Arrays by name as their source stores them, and the header of that source as text."""

    path: Path
    arrays: Arrays
    header: dict[str, str]


def read(path: Path) -> Weights:
    """Reads a file of weights: arrays by its own names, and safetensors' header (else empty).

    Formats: `.safetensors`, NumPy's `.npz`, PyTorch's `.pth` (zip and legacy; this needs torch).
    No format may run code: pickles are read by torch's `weights_only`, or refused.

    Raises:
        InputError: no such file, none of these formats, damaged, holding code, or torch is absent.
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
            return Weights(path, _read_torch(path), {})
        with path.open("rb") as file:
            start = file.read(9)
        if len(start) == 9 and start[8:] == b"{":  # safetensors: 8 bytes of length, then JSON
            with safetensors.safe_open(path, "numpy") as file:  # checks the header
                return Weights(path, _mapped(path), file.metadata() or {})
        if start[:1] == b"\x80":  # a pickle: PyTorch before 1.6
            return Weights(path, _read_torch(path), {})
        if start[:2] == b"PK":  # a zip archive whose end, with its table of contents, is missing
            raise InputError(f"{path}: damaged file of weights: its end is missing")
    except (OSError, ValueError, EOFError, struct.error, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: damaged file of weights: {_line(error)}") from error
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: damaged safetensors file: {_line(error)}") from error
    raise InputError(f"{path}: not a file of weights; it may be .safetensors, .npz or .pth")


_MAPPED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}
_STORED = {np.dtype(kind): name for name, kind in _MAPPED.items()}


def _mapped(path: Path) -> Arrays:
    """A safetensors file's arrays as views of the file's own pages: read where they are used."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header.pop("__metadata__", None)
    if any(entry["dtype"] not in _MAPPED for entry in header.values()):
        return safetensors.numpy.load_file(path)
    pages.madvise(mmap.MADV_WILLNEED)  # so that the disk reads while the program goes on
    content = np.frombuffer(pages, np.uint8)[8 + length :]
    return {
        name: content[slice(*entry["data_offsets"])]
        .view(_MAPPED[entry["dtype"]])
        .reshape(entry["shape"])
        for name, entry in header.items()
    }


def _read_torch(path: Path) -> Arrays:
    """The state dict in a `.pth`; one level of 'state_dict' or 'model' around it is opened."""
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path}: reading a .pth file takes PyTorch: pip install 'dtvit-jax[torch]'"
        ) from error
    try:
        # mmap: the file's own pages are the tensors, so nothing is held twice.
        found = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused: its pickle is damaged, or holds more than weights and could run code"
        ) from error
    except Exception as error:  # whatever torch's reader meets in damaged bytes
        raise InputError(f"{path}: damaged .pth file: {_line(error).split('. ')[0]}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    return {name: _numpy(path, name, tensor) for name, tensor in _items(path, found)}


def _items(path: Path, found: Any) -> Any:
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a {type(found).__name__}, not a dict of tensors by name")
    return found.items()


def _numpy(path: Path, name: Any, tensor: Any) -> np.ndarray:
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"{path}: {name!r} is a {type(tensor).__name__}, not a tensor")
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def write(path: Path, arrays: Arrays, metadata: dict[str, str]) -> None:
    """Writes a safetensors file, whole or not at all; the same arrays give the same bytes.

    Arrays lie at multiples of `ALIGNMENT` bytes, so that JAX takes them from a mapped file as they
    are; those of another length come last, as the format allows no holes.
    """
    partial = path.with_name(path.name + ".part")
    header: dict[str, Any] = {"__metadata__": metadata}
    names = sorted(arrays, key=lambda name: (arrays[name].nbytes % ALIGNMENT != 0, name))
    place = 0
    for name in names:
        array = arrays[name]
        end = place + array.nbytes
        header[name] = {
            "dtype": _STORED[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text = text.ljust(-(-(8 + len(text)) // ALIGNMENT) * ALIGNMENT - 8)
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path}: can't be written: {_line(error)}") from error
    finally:
        partial.unlink(missing_ok=True)  # Ctrl-C leaves no half of it either
