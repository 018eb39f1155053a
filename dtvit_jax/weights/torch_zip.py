"""Reads the zip files of `torch.save` without PyTorch.

Such a file holds, uncompressed and in one folder, `data.pkl`, a pickle that describes the tensors,
and `data/KEY`, the bytes of each storage; several tensors may be views of one storage. A pickle is
a program that can import and call anything. Here its instructions are followed only for containers,
text and numbers, and for the names of which a state dict is made: nothing is imported or called,
and a pickle with any other instruction or name is refused.
"""

import math
import mmap
import pickletools
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_builder.errors import InputError, first_line

_STORAGES = {
    "torch DoubleStorage": "<f8",
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch BFloat16Storage": "<u2",  # NumPy has no bfloat16
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "i1",
    "torch ByteStorage": "u1",
    "torch BoolStorage": "?",
}
_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_LONGEST_PICKLE = 1 << 26  # bytes; that of 1,000 tensors has about 100,000


class _Name(str):
    """A name that a pickle asks for, such as 'torch FloatStorage'."""


class _Storage(NamedTuple):
    name: _Name
    key: str
    length: int


class _Refused(Exception):
    """A pickle holds more than a state dict."""


def read(path: Path) -> Any:
    """What was saved: containers as they were (dicts for OrderedDicts), tensors as NumPy arrays.

    Arrays are read-only views of the mapped file, with the tensors' strides; the checksum of each
    storage is verified. bfloat16 becomes float32, in memory.

    Raises:
        InputError: the file is damaged, or holds more than containers, numbers, text and tensors.
        OSError, zipfile.BadZipFile: the file can't be read.
    """
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        folders = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
        if len(folders) != 1:
            raise InputError(f"{path}: a zip archive, but not one that torch.save wrote")
        _check_members(path, members)
        # older files have none: they are little-endian
        order = members.get(folders[0] + "byteorder")
        if order is not None and archive.read(order) != b"little":
            raise InputError(
                f"{path}: its numbers are big-endian: load and save it with PyTorch on a "
                "little-endian machine"
            )
        program = archive.read(members[folders[0] + "data.pkl"])
    prefix = folders[0] + "data/"
    storages = {
        name.removeprefix(prefix): member
        for name, member in members.items()
        if name.startswith(prefix)
    }
    try:
        return _run(program, _Tensors(path, storages).view)
    except _Refused as error:
        raise InputError(
            f"{path}: refused: {error}, which is more than weights and could run code: give a file "
            "of the model's state_dict() alone"
        ) from error
    except Exception as error:  # a damaged pickle can ask for anything with any argument
        raise InputError(f"{path}: damaged .pth file: {first_line(error)[:200]}") from error


def _check_members(path: Path, members: dict[str, zipfile.ZipInfo]) -> None:
    """Raises InputError where a member takes more memory than it has bytes in the file."""
    size = path.stat().st_size
    for name, member in members.items():
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise InputError(
                f"{path}: {name[:80]!r} in it is compressed or encrypted, which torch.save never "
                "does: give the file as it was published"
            )
        limit = size if "/data/" in name else _LONGEST_PICKLE
        if member.file_size != member.compress_size or member.file_size > limit:
            raise InputError(f"{path}: damaged .pth file: wrong length of {name[:80]!r}")


class _Tensors:
    """The storages of a mapped file, each made an array once."""

    def __init__(self, path: Path, members: dict[str, zipfile.ZipInfo]) -> None:
        self._members = members
        self._arrays: dict[_Storage, np.ndarray] = {}
        with path.open("rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        pages.madvise(mmap.MADV_WILLNEED)  # the disk reads ahead while the program continues
        self._content = np.frombuffer(pages, np.uint8)

    def view(
        self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> np.ndarray:
        """A tensor: elements of a storage, from `offset` on, with strides in elements."""
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor without a storage")
        if storage not in self._arrays:
            self._arrays[storage] = self._open(storage)
        array = self._arrays[storage]
        if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
            raise ValueError("a tensor's shape and strides do not fit together")
        if math.prod(shape) == 0:
            return np.empty(shape, array.dtype)
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if last >= len(array) or math.prod(shape) > len(array):
            raise ValueError(f"a tensor exceeds its storage of {len(array)} elements")
        size = array.itemsize
        return np.ndarray(shape, array.dtype, array, offset * size, [size * s for s in strides])

    def _open(self, storage: _Storage) -> np.ndarray:
        kind = np.dtype(_STORAGES[storage.name])
        member = self._members[storage.key]
        if storage.length * kind.itemsize != member.file_size:
            raise ValueError(f"storage {storage.key} has {member.file_size} bytes")
        header = self._content[member.header_offset :][:30].tobytes()
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise ValueError(f"storage {storage.key} has no header")
        # Lengths of the name and of the extra field, which can differ from the table's at the end.
        lengths = [int.from_bytes(header[at : at + 2], "little") for at in (26, 28)]
        begin = member.header_offset + 30 + sum(lengths)
        content = self._content[begin : begin + member.file_size]
        if zlib.crc32(content.data) != member.CRC:
            raise ValueError(f"the checksum of storage {storage.key} is wrong")
        if storage.name == "torch BFloat16Storage":  # the upper halves of float32
            return (content.view(kind).astype(np.uint32) << 16).view(np.float32)
        return content.view(kind)


def _run(program: bytes, tensor: Callable[..., np.ndarray]) -> Any:
    """The value that a pickle makes, as far as it may. Raises _Refused, or anything if damaged."""
    stack: list[Any] = []
    outer: list[list[Any]] = []  # the stacks below each mark
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        nonlocal stack
        items, stack = stack, outer.pop()
        return items

    value: Any
    for opcode, value, _ in pickletools.genops(program):
        name = opcode.name
        if name in _VALUES:
            stack.append(value)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif name == "MARK":
            outer.append(stack)
            stack = []
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "TUPLE":
            items = since_mark()
            stack.append(tuple(items))
        elif name in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name in ("APPEND", "APPENDS"):
            items = since_mark() if name == "APPENDS" else [stack.pop()]
            _of(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = since_mark() if name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            for key, item in zip(items[::2], items[1::2], strict=True):
                _of(stack[-1], dict)[_of(key, str | int)] = item
        elif name == "GLOBAL":
            if value not in (_DICT, _TENSOR, _PARAMETER, *_STORAGES):
                raise _Refused(f"its pickle names {value[:80]!r}")
            stack.append(_Name(value))
        elif name == "BINPERSID":
            _, kind, key, _, length = _of(stack.pop(), tuple)
            stack.append(_Storage(_of(kind, _Name), _of(key, str), _of(length, int)))
        elif name == "REDUCE":
            arguments, function = _of(stack.pop(), tuple), _of(stack.pop(), _Name)
            if function == _DICT and not arguments:
                stack.append({})
            elif function == _TENSOR:
                stack.append(tensor(*arguments[:4]))
            elif function == _PARAMETER:
                stack.append(_of(arguments[0], np.ndarray))
            else:
                raise _Refused(f"its pickle calls {function!r}")
        elif name == "BUILD":
            stack.pop()  # attributes of an OrderedDict: a state dict's _metadata
            _of(stack[-1], dict)
        elif name == "STOP":
            return stack.pop()
        elif name != "PROTO":
            raise _Refused(f"its pickle has the instruction {name}")
    raise ValueError("its pickle has no end")


def _of(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"its pickle has a {type(value).__name__} in a wrong place")
    return value
