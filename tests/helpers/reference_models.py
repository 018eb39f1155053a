"""Random weights by name, for the reference implementations and for this package alike.

The stored references (tests/references) hold names, shapes and answers, not weights: those are
drawn again here, the same on every machine.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from dtvit_jax import models
from dtvit_jax.models.vit import patchify
from dtvit_jax.runs.trained_run import open_weights
from dtvit_jax.weights import load as pretrained
from tests.helpers import ROOT

FOLDER = ROOT / "tests/references"


def draw(names: list[str], shapes: list[tuple[int, ...]]) -> dict[str, np.ndarray]:
    """An array for each name, of a size that keeps activations near 1."""
    return {n: _draw(n, tuple(s)) for n, s in zip(names, shapes, strict=True)}


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    values = 2 * rng.random(shape, dtype=np.float32) - 1
    gain = name.endswith("running_var") or (len(shape) == 1 and name.endswith(("weight", "scale")))
    if gain:
        return 1 + 0.5 * values
    if len(shape) == 1 or name.endswith("bias"):
        return 0.1 * values
    if "pos" in name or "cls" in name or "class_token" in name:
        return values
    if "/" not in name:  # torch: [out, in, ...]
        fan_in = values.size // shape[0]
    else:  # Google: [..., in, out], attention's [in, heads, width] and [heads, width, out]
        fan_in = (
            shape[0]
            if name.split("/")[-2] in ("query", "key", "value")
            else (values.size // shape[-1])
        )
    return values * np.float32(np.sqrt(3 / fan_in))


def pictures(side: int, channels: int = 3) -> np.ndarray:
    """Two images [2, side, side, channels] with values near those of a normalised picture."""
    rng = np.random.default_rng(side)
    return (4 * rng.random((2, side, side, channels), dtype=np.float32) - 2).astype(np.float32)


def write_reference(name: str, folder: Path) -> tuple:
    """The state dict of a stored reference as a file: its path, the state, what it is, answers."""
    with np.load(FOLDER / f"{name}.npz") as file:
        answers = {key: file[key] for key in file.files}
    shapes = json.loads(str(answers.pop("shapes")))
    about = json.loads(str(answers.pop("about")))
    state = draw(list(shapes), [tuple(shape) for shape in shapes.values()])
    path = folder / (name + (".npz" if name.startswith("google") else ".safetensors"))
    if path.suffix == ".npz":
        np.savez(path, **state)
    else:
        save_file(state, path)
    return path, state, about, answers


def load(path: Path, name: str, **options: Any) -> Any:
    """The dual-task model `name` with the file's encoder in place; its heads hold ones."""
    options = {**pretrained.model_options(open_weights(path), name), **options}
    graph, params, stats = nnx.split(
        nnx.eval_shape(lambda: models.create(name, key=jax.random.key(0), **options)),
        nnx.Param,
        nnx.BatchStat,
    )
    params, stats = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), (params, stats))
    model = nnx.merge(graph, params, stats)
    pure = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    loaded = pretrained.load_into(open_weights(path), {"name": name, **options}, *pure)
    # arrays of JAX, since a file's own may be mapped read-only, and training updates statistics
    params, stats = jax.tree.map(jnp.asarray, loaded)
    nnx.update(model, params)
    nnx.update(model, stats)
    return model


def our_answers(encoder: nnx.Module, state: dict[str, np.ndarray], side: int) -> dict[str, Any]:
    """This package's answers to `pictures(side)`, with the publisher's classifier from `state`."""

    @nnx.jit
    def run(encoder: Any, images: jax.Array) -> tuple[dict[str, Any], jax.Array]:
        if hasattr(encoder, "patch_embedding"):
            embedding = encoder.embed(patchify(images, encoder.patch))
            block = encoder.blocks[0](embedding)
            return {"embedding": embedding, "block": block}, encoder(images)
        if hasattr(encoder, "feature_maps"):
            maps = encoder.feature_maps(images)
            squeezenet = np.ndim(state.get("classifier.1.weight")) == 4
            last = maps[-1] if squeezenet else encoder(images)
            return {"stem": maps[0], "block": maps[1]}, last
        stem = encoder.stem(images)
        if hasattr(encoder, "layer1"):
            block = stem
            for layer in encoder.layer1:
                block = layer(block, False)
            return {"stem": stem, "block": block}, encoder(images)
        return {"stem": stem, "block": encoder.block(1, stem)}, encoder(images)

    answers, features = run(encoder, jnp.asarray(pictures(side)))
    answers["logits"] = _classify(state, np.asarray(features))
    return answers


def _classify(state: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    if "head/kernel" in state:
        return features @ state["head/kernel"] + state["head/bias"]
    if features.ndim == 4:  # SqueezeNet's is a 1x1 convolution, ReLU and the mean
        weight = state["classifier.1.weight"][:, :, 0, 0]
        return np.maximum(features @ weight.T + state["classifier.1.bias"], 0).mean((1, 2))
    heads = ("heads.head", "head", "fc", "classifier.6", "classifier")
    head = next(head for head in heads if f"{head}.weight" in state)
    return features @ state[f"{head}.weight"].T + state[f"{head}.bias"]


def difference(got: Any, want: np.ndarray) -> tuple[float, float]:
    """The largest absolute difference, and that relative to the largest value wanted."""
    error = float(np.abs(np.asarray(got, np.float64) - want).max())
    return error, error / float(np.abs(want).max())


def assert_equal(got: Any, want: np.ndarray) -> None:
    """Within 1e-4, and within 1e-5 of the largest value."""
    error, relative = difference(got, want)
    assert error <= 1e-4
    assert relative <= 1e-5
