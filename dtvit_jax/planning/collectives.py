"""Reads the collective operations of a compiled program from its HLO."""

import dataclasses
import math
import re

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\((.*)")
_SHAPE = re.compile(r"\b(pred|bf16|[suf]\d+)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation; `size` is its result's bytes on one device."""

    kind: str
    size: int
    line: str


def collectives(hlo: str) -> list[Collective]:
    """Lists the collectives in `jax.stages.Compiled.as_text()`, in the order of the text.

    An operation inside a loop is listed once, whatever the number of iterations.
    """
    operations = []
    for line in hlo.splitlines():
        if match := _OPERATION.search(line):
            shapes, kind, _ = match.groups()
            size = sum(
                _BYTES[dtype] * math.prod(map(int, filter(None, dimensions.split(","))))
                for dtype, dimensions in _SHAPE.findall(shapes)
            )
            operations.append(Collective(kind, size, line.strip()))
    return operations


def sent_by_all_reduce(size: float | int, devices: int) -> float:
    """Returns the bytes that each device sends in a ring all-reduce of `size` bytes."""
    return 2 * size * (devices - 1) / devices


def sent_by_all_gather(size: float | int, devices: int) -> float:
    """Returns the bytes that each device sends in a ring all-gather to `size` bytes.

    A reduce-scatter of `size` bytes sends as many.
    """
    return size * (devices - 1) / devices
