"""A trained model as one function of stored slices, written in formats that other programs run.

StableHLO by `jax.export`, ONNX by jax2onnx. Cropping, windows, normalisation and calibration are
inside the function; weights are float32 constants, whatever type the model was trained in.
"""

import contextlib
import dataclasses
import importlib
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from data_builder.errors import InputError
from data_builder.records import LOCATIONS
from dtvit_jax.decision.calibration import FLOOR, Calibration
from dtvit_jax.decision.rule import DecisionRule
from dtvit_jax.models import KernelForm
from dtvit_jax.models.variables import Variables
from dtvit_jax.training.network import Network

PLACES = len(LOCATIONS)
"""Location classes that are places; a fourth, 'normal', is no answer."""

OUTPUTS = {
    "p_hemorrhage": ("batch",),
    "p_location": ("batch", PLACES),
    "raw_p_hemorrhage": ("batch",),
    "raw_p_location": ("batch", PLACES),
}
"""Names and shapes of the outputs, float32: calibrated probabilities, and uncalibrated ('raw')."""

PLATFORMS = ("cpu", "cuda", "tpu")
"""Platforms that a StableHLO file holds programs for."""
LARGEST = 1_900_000_000
"""Most bytes of weights in one file: both formats are limited to 2 GiB."""

Images = UInt8[np.ndarray, "batch size size"]
Answer = Callable[[Array], dict[str, Array]]


def answer_function(network: Network, variables: Variables, rule: DecisionRule) -> Answer:
    """The function from cleaned slices, uint8 [batch, size, size], to OUTPUTS.

    Args:
        network: the model's structure and the transform from stored slices to its input.
        variables: parameters and batch statistics, which become constants of the function.
        rule: its calibrations are applied.
    """
    fitted = rule.calibrations["slice"]

    def answer(images: UInt8[Array, "batch size size"]) -> dict[str, Array]:
        model = network.model(*variables)
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
    """`Calibration.apply` as a traceable function."""
    used = fitted.used(method, p.shape[1])
    if used == "none":
        return p
    if used == "temperature":
        return jax.nn.softmax(jnp.log(jnp.clip(p, FLOOR, 1)) / fitted.temperature, axis=1)
    x, y = (np.asarray(knots, np.float32) for knots in (fitted.x, fitted.y))
    width = np.diff(x)
    # np.interp as a sum over its segments: ONNX has no interpolation at given knots
    covered = jnp.clip(p[:, 1:] - x[:-1], 0, width) / width
    positive = y[0] + (covered * np.diff(y)).sum(-1)
    return jnp.stack([1 - positive, positive], axis=1)


def to_stablehlo(answer: Answer, size: int) -> bytes:
    """The function, for any batch size on PLATFORMS, as `jax.export.deserialize` reads it.

    size: side of a slice in pixels.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, size, size), np.uint8)
    limit = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, limit)
    jax.config.update(limit, 0)  # else the file holds the paths of this program's source files
    try:
        exported = jax.export.export(jax.jit(answer), platforms=PLATFORMS)(images)
        return bytes(exported.serialize())
    finally:
        jax.config.update(limit, before)


def run_stablehlo(path: Path, images: Images) -> dict[str, np.ndarray]:
    """OUTPUTS of a StableHLO file, computed by JAX."""
    outputs = jax.export.deserialize(bytearray(path.read_bytes())).call(images)
    return {name: np.asarray(value) for name, value in outputs.items()}


def to_onnx(answer: Answer, size: int) -> bytes:
    """The function, for any batch size, as an ONNX model.

    The model in `answer` was made with kernels='plain': jax2onnx 0.13 can write no other form.

    Raises:
        InputError: the extra onnx is not installed.
    """

    def outputs(images: Array) -> tuple[Array, ...]:
        by_name = answer(images)
        return tuple(by_name[name] for name in OUTPUTS)

    with _quiet():
        model = _optional("jax2onnx").to_onnx(
            outputs,
            [jax.ShapeDtypeStruct(("batch", size, size), np.uint8)],
            model_name="dtvit_jax",
            input_names=["images"],
            output_names=list(OUTPUTS),
        )
    return model.SerializeToString()


def run_onnx(path: Path, images: Images) -> dict[str, np.ndarray]:
    """OUTPUTS of an ONNX file, computed by onnxruntime on the CPU.

    Raises:
        InputError: the extra onnx is not installed.
    """
    session = _optional("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"images": images}), strict=True))


def _optional(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            "--format onnx needs the extra onnx: pip install -c requirements.lock -e '.[onnx]'"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences jax2onnx, which reports its progress on stdout and in the log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        kernels: the form of the model that it can be written from.
        write: (answer, side of a slice) to the file's bytes.
        run: (path, slices) to OUTPUTS.
    """

    kernels: KernelForm
    write: Callable[[Answer, int], bytes]
    run: Callable[[Path, Images], dict[str, np.ndarray]]


FORMATS = {
    "stablehlo": Format("auto", to_stablehlo, run_stablehlo),
    "onnx": Format("plain", to_onnx, run_onnx),
}
