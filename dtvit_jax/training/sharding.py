"""Places arrays on devices: batches over all of them, parameters over the axis 'fsdp'."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from data_builder.errors import InputError
from dtvit_jax.training.memory import tree_bytes

SMALLEST_SHARDED = 2**13
"""Smaller arrays are copied to every device: splitting them costs more than it saves."""


def make_mesh(shape: Any, on: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of config.mesh: axes 'data' and 'fsdp'; -1 takes the devices that are left.

    `on` are the devices to use; None: all of every process. Raises InputError where the axes'
    product is not their number.
    """
    devices = jax.device_count() if on is None else len(on)
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
    types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((data, fsdp), ("data", "fsdp"), axis_types=types, devices=on)


def placed_on(mesh: Mesh | AbstractMesh, abstract: Any) -> Any:
    """`abstract` with the place of each leaf: a NamedSharding, which Orbax and `lower` read.

    'fsdp' divides the longest axis that it can, of a leaf that is large.
    """
    parts = mesh.shape["fsdp"]

    def place(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spec: list[str | None] = [None] * len(leaf.shape)
        divisible = [axis for axis, n in enumerate(leaf.shape) if n % parts == 0]
        if parts > 1 and divisible and np.prod(leaf.shape) >= SMALLEST_SHARDED:
            spec[max(divisible, key=lambda axis: leaf.shape[axis])] = "fsdp"
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(place, abstract)


def shardings(placed: Any) -> Any:
    """The NamedSharding of each leaf."""
    return jax.tree.map(lambda leaf: leaf.sharding, placed)


def is_split(leaf: jax.ShapeDtypeStruct) -> bool:
    """Whether devices hold parts of the array."""
    return any(axis is not None for axis in leaf.sharding.spec)


def bytes_of_one(placed: Any) -> int:
    """Bytes that one device holds of the arrays."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(placed)
    )


def held_by_one(state: Any) -> int:
    """Bytes that one device holds in a step: its part of a TrainState, and gathered parameters."""
    gathered = [leaf for leaf in jax.tree.leaves(state.params) if is_split(leaf)]
    return bytes_of_one(state) + tree_bytes(gathered)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples over all devices of the mesh."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def create(make: Callable[[], Any], placed: Any, loaded: Any = None) -> Any:
    """The tree that `make` returns, each leaf made in the place of its namesake in `placed`.

    No device or process holds all of it.
    Leaves of `loaded` (the same tree) that are NumPy arrays replace those of `make`. Of such an
    array, also one in a mapped file, each process reads the parts of its own devices only.
    """
    if loaded is None:
        return jax.jit(make, out_shardings=shardings(placed))()
    arrays, tree = jax.tree.flatten(loaded)
    places = jax.tree.leaves(shardings(placed))
    given = [isinstance(array, np.ndarray) for array in arrays]

    def make_missing() -> list[Any]:
        made = jax.tree.leaves(make())
        return [x for x, there in zip(made, given, strict=True) if not there]

    missing = [place for place, there in zip(places, given, strict=True) if not there]
    made = iter(jax.jit(make_missing, out_shardings=missing)())
    rows = zip(arrays, places, given, strict=True)
    leaves = [_put(array, place) if there else next(made) for array, place, there in rows]
    return jax.tree.unflatten(tree, leaves)


def _put(array: np.ndarray, place: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(
        array.shape, place, lambda part: np.ascontiguousarray(array[part])
    )


def gather_for_use(placed: Any) -> Callable[[Any], Any]:
    """A function that makes parameters whole before the model reads them.

    Each device computes whole layers on its own examples, so a parameter split over 'fsdp' is
    gathered first, and its gradient is scattered again (as in ZeRO-3, arXiv 1910.02054). Without
    this, XLA's partitioner splits layers and sends activations. Parameters that every device holds
    whole pass unchanged.
    """

    def gather(x: Any, leaf: Any) -> Any:
        if not is_split(leaf):
            return x
        whole = NamedSharding(leaf.sharding.mesh, PartitionSpec())

        @jax.custom_vjp
        def gathered(x: Any) -> Any:
            return jax.lax.with_sharding_constraint(x, whole)

        def forward(x: Any) -> tuple[Any, None]:
            return gathered(x), None

        def backward(_: None, gradient: Any) -> tuple[Any]:
            # Whole first, or the partitioner splits the layers that the gradient comes from.
            summed = jax.lax.with_sharding_constraint(gradient, whole)
            return (jax.lax.with_sharding_constraint(summed, leaf.sharding),)

        gathered.defvjp(forward, backward)
        return gathered(x)

    return lambda params: jax.tree.map(gather, params, placed)
