"""Where each array lives: batches over all devices, parameters over the axis 'fsdp'."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from data_builder.errors import InputError

SMALLEST_SHARDED = 2**14
"""Smaller arrays are copied to every device: splitting them costs more than it saves."""


def make_mesh(shape: Any) -> Mesh:
    """The mesh of config.mesh: axes 'data' and 'fsdp'; -1 takes the devices that are left."""
    devices = jax.device_count()
    data, fsdp = shape["data"], shape["fsdp"]
    if fsdp < 1 or data < -1 or data == 0:
        raise InputError(f"config.mesh is data={data}, fsdp={fsdp}: give 1 and more, or data=-1")
    if data == -1:
        data = devices // fsdp
    if data * fsdp != devices:
        raise InputError(
            f"config.mesh asks for {max(data, 1)} x {fsdp} devices and there are {devices}: "
            "give --config.mesh.data=-1 and a fsdp that divides them"
        )
    return jax.make_mesh((data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def state_sharding(mesh: Mesh, abstract: Any) -> Any:
    """A NamedSharding for each leaf: its longest axis that 'fsdp' divides, if it is large."""
    parts = mesh.shape["fsdp"]

    def one(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        spec: list[str | None] = [None] * len(leaf.shape)
        divisible = [axis for axis, n in enumerate(leaf.shape) if n % parts == 0]
        if parts > 1 and divisible and np.prod(leaf.shape) >= SMALLEST_SHARDED:
            spec[max(divisible, key=lambda axis: leaf.shape[axis])] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(one, abstract)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples over all devices of the mesh."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
