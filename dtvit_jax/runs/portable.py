"""A trained model as one function of stored slices, in forms that other programs run.

StableHLO through `jax.export` and ONNX through jax2onnx. Cropping, windows, normalisation and
calibration are inside; the weights are in float32, whatever type the model was trained in.
"""

import contextlib
import functools
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.linen import pooling
from jaxtyping import Array, Float, UInt8

from data_builder.errors import InputError
from data_builder.records import LOCATIONS
from dtvit_jax.decision.calibration import FLOOR, Calibration
from dtvit_jax.decision.rule import DecisionRule
from dtvit_jax.training.network import Network

PLACES = len(LOCATIONS)
"""Classes of the location head that are places; a fourth is 'normal' and no answer."""

OUTPUTS = {
    "p_hemorrhage": ("batch",),
    "p_location": ("batch", PLACES),
    "raw_p_hemorrhage": ("batch",),
    "raw_p_location": ("batch", PLACES),
}
"""Names and shapes, float32: calibrated probabilities, and the model's own ('raw')."""

PLATFORMS = ("cpu", "cuda", "tpu")
LARGEST = 1_900_000_000
"""Bytes of weights that fit into one file: both formats end at 2 GiB."""

Answer = Callable[[Array], dict[str, Array]]


def answer_function(network: Network, params: Any, stats: Any, rule: DecisionRule) -> Answer:
    """uint8 [batch, size, size] of cleaned slices to OUTPUTS; the weights are constants in it."""
    fitted = rule.calibrations["slice"]

    def answer(images: UInt8[Array, "batch size size"]) -> dict[str, Array]:
        model = network.model(params, stats)
        hemorrhage, location = model(network.transform(images, None))
        raw = jax.nn.softmax(hemorrhage), jax.nn.softmax(location[:, :PLACES])
        return {
            "p_hemorrhage": calibrated(raw[0], fitted["hemorrhage"], rule.method)[:, 1],
            "p_location": calibrated(raw[1], fitted["location"], rule.method),
            "raw_p_hemorrhage": raw[0][:, 1],
            "raw_p_location": raw[1],
        }

    return answer


def calibrated(
    p: Float[Array, "batch classes"], fitted: Calibration, method: str
) -> Float[Array, "batch classes"]:
    """`Calibration.apply` as a traced function."""
    used = fitted.used(method, p.shape[1])
    if used == "isotonic":
        x, y = (np.asarray(knots, np.float32) for knots in (fitted.x, fitted.y))
        width = np.diff(x)
        # np.interp as a sum over its pieces, which every runtime has
        along = jnp.clip(p[:, 1:] - x[:-1], 0, width) / width
        positive = y[0] + (along * np.diff(y)).sum(-1)
        return jnp.stack([1 - positive, positive], axis=1)
    return (
        p
        if used == "none"
        else jax.nn.softmax(jnp.log(jnp.clip(p, FLOOR, 1)) / fitted.temperature, axis=1)
    )


def to_stablehlo(answer: Answer, size: int) -> bytes:
    """The function for any batch on PLATFORMS, as `jax.export.deserialize` reads it."""
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, size, size), np.uint8)
    limit = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, limit)
    jax.config.update(limit, 0)  # else the paths of this program's files are in it
    try:
        exported = jax.export.export(jax.jit(answer), platforms=PLATFORMS)(images)
        return bytes(exported.serialize())
    finally:
        jax.config.update(limit, before)


def run_stablehlo(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the file at `path` answers here."""
    found = jax.export.deserialize(bytearray(path.read_bytes())).call(images)
    return {name: np.asarray(value) for name, value in found.items()}


def to_onnx(answer: Answer, size: int) -> bytes:
    """The function for any batch as an ONNX model. Raises InputError without the extra onnx."""
    with _quiet():
        try:
            import jax2onnx
        except ImportError as error:
            raise needs_extra() from error
        model = jax2onnx.to_onnx(
            _for_onnx(answer),
            [jax.ShapeDtypeStruct(("batch", size, size), np.uint8)],
            model_name="dtvit_jax",
            input_names=["images"],
            output_names=list(OUTPUTS),
        )
    return model.SerializeToString()


def run_onnx(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """What onnxruntime makes of the file at `path`. Raises InputError without the extra onnx."""
    try:
        import onnxruntime
    except ImportError as error:
        raise needs_extra() from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"images": images}), strict=True))


def needs_extra() -> InputError:
    """What to say where the extra is missing."""
    return InputError(
        "--format onnx needs the extra onnx: pip install -c requirements.lock -e '.[onnx]'"
    )


def _for_onnx(answer: Answer) -> Callable[[Array], tuple[Array, ...]]:
    """The function traced with Flax's own layers and for one platform, outputs as in OUTPUTS.

    jax2onnx 0.13 puts its own operations in the place of Flax's, and those for convolution and
    pooling do not know padding by numbers; it makes a pooling of four axes of a window's maximum,
    which onnxruntime does not know; and it knows no choice by platform.
    """
    places = ((nnx.Conv, "__call__"), (nnx, "avg_pool"), (pooling, "pool"))
    own = [(place, name, getattr(place, name)) for place, name in places]
    own.append((nnx, "max_pool", _max_of_slices))

    def default_platform(*args: Any, default: Callable, **others: Any) -> Any:
        return default(*args)

    def traced(images: Array) -> tuple[Array, ...]:
        with contextlib.ExitStack() as stack:
            for place, name, layer in own:
                stack.enter_context(mock.patch.object(place, name, layer))
            stack.enter_context(mock.patch.object(jax.lax, "platform_dependent", default_platform))
            found = answer(images)
        return tuple(found[name] for name in OUTPUTS)

    return traced


def _max_of_slices(
    x: Float[Array, "batch rows columns channels"],
    window: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> Float[Array, "batch new_rows new_columns channels"]:
    """nnx.max_pool as the maximum of one slice for each place in the window."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-np.inf)
    for axis, (side, stride) in enumerate(zip(window, strides, strict=True), start=1):
        last = x.shape[axis] - side
        slices = [jax.lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(side)]
        x = functools.reduce(jnp.maximum, slices)
    return x


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """jax2onnx tells of its work on stdout and in the log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
