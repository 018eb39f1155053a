"""Writes zip files as `torch.save` does, opcode by opcode, without PyTorch."""

import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

KINDS = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


class Tensor(NamedTuple):
    """A view of a storage; `strides` are in elements."""

    kind: str
    key: str
    length: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Raw(NamedTuple):
    """Opcodes to take as they are."""

    code: bytes


NO_HOOKS = Raw(b"ccollections\nOrderedDict\n)R")


def pickled(value: Any) -> bytes:
    """The opcodes that push a value. Dicts become OrderedDicts with `_metadata`, as state dicts."""
    if isinstance(value, Raw):
        return value.code
    if isinstance(value, Tensor):
        storage = ("storage", Raw(f"ctorch\n{value.kind}\nq\x07".encode()), value.key, "cpu")
        reference = Raw(pickled((*storage, value.length)) + b"Q")
        arguments = (reference, value.offset, value.shape, value.strides, False, NO_HOOKS)
        return b"ctorch._utils\n_rebuild_tensor_v2\nq\x08" + pickled(arguments) + b"R"
    if isinstance(value, dict):
        items = b"".join(pickled(key) + pickled(item) for key, item in value.items())
        metadata = b"}X\x09\x00\x00\x00_metadata" + NO_HOOKS.code + b"sb"
        return NO_HOOKS.code + b"q\x00(" + items + b"u" + metadata
    if isinstance(value, list):
        return b"](" + b"".join(map(pickled, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(pickled, value)) + b"t"
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def write(path: Path, content: Any, storages: dict[str, bytes], **options: Any) -> None:
    """Writes the file; `options` are `byteorder`, `compression` and the `folder` in it."""
    folder = options.get("folder", "archive")
    with zipfile.ZipFile(path, "w", options.get("compression", zipfile.ZIP_STORED)) as archive:
        archive.writestr(f"{folder}/data.pkl", b"\x80\x02" + pickled(content) + b".")
        archive.writestr(f"{folder}/byteorder", options.get("byteorder", b"little"))
        for key, data in storages.items():
            archive.writestr(f"{folder}/data/{key}", data)
        archive.writestr(f"{folder}/version", b"3\n")


def tensor_of(array: np.ndarray, key: str) -> Tensor:
    """The tensor that is a whole storage."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Tensor(KINDS[array.dtype.name], key, array.size, 0, array.shape, strides)


def write_state(path: Path, state: dict[str, np.ndarray]) -> None:
    """Writes a state dict, each array in a storage of its own."""
    arrays = {name: np.ascontiguousarray(array) for name, array in state.items()}
    arrays = {name: array.reshape(state[name].shape) for name, array in arrays.items()}
    tensors = {name: tensor_of(a, str(n)) for n, (name, a) in enumerate(arrays.items())}
    write(path, tensors, {tensors[name].key: a.tobytes() for name, a in arrays.items()})
