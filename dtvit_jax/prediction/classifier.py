"""Runs the model on stored slices: one compiled batch shape, weights on the devices."""

import collections
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from data_builder.errors import InputError
from dtvit_jax import runtime
from dtvit_jax.runs.evaluated_run import ModelFolder
from dtvit_jax.runtime import keep_freed_memory
from dtvit_jax.training.network import Network, make_crop, make_network
from dtvit_jax.training.steps import probabilities

_BATCHES_AHEAD = 2


def answer_step(
    params: Any, stats: Any, images: UInt8[Array, "batch side side"], *, network: Network
) -> tuple[Float[Array, " batch"], Float[Array, "batch 3"]]:
    """Computes probabilities of hemorrhage, and of its locations, for a batch of stored slices."""
    model = network.model(params, stats)
    return probabilities(model(network.transform(images, None)))


class Classifier:
    """A model with its weights on the devices.

    On a CPU the weights are the file's own mapped pages. They are hashed in the background while
    the model answers.

    Attributes:
      network, params, stats, crop: the model and its transform, for heat maps.
      batch: slices at a time; a smaller number is padded, so that one program serves all.
    """

    def __init__(self, folder: ModelFolder, batch: int) -> None:
        self.batch = batch
        self.side = int(folder.config.data.size)
        self.crop = make_crop(folder.config)
        keep_freed_memory()
        with runtime.collection_paused():
            self.network = network = make_network(folder.config)
            images = jax.ShapeDtypeStruct((batch, self.side, self.side), np.uint8)
            step = jax.jit(functools.partial(answer_step, network=network))
            self._step = step.lower(network.params, network.stats, images).compile()
            weights = folder.weights(network.params, network.stats)
        background = ThreadPoolExecutor(1)
        self._digest = background.submit(folder.check, weights)
        background.shutdown(wait=False)
        self.params, self.stats = jax.device_put(weights)

    @property
    def weights_sha256(self) -> str:
        """The digest of the weights. Raises InputError where they are damaged."""
        return self._digest.result()

    def begin(self, images: UInt8[np.ndarray, "n side side"]) -> tuple[Array, Array]:
        """Starts the model on at most `batch` slices and returns arrays that are being computed."""
        padding = ((0, self.batch - len(images)), (0, 0), (0, 0))
        return self._step(self.params, self.stats, np.pad(images, padding))


class SliceProbabilities:
    """Collects the probabilities of slices added one by one; batches run while more are added."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._waiting: list[UInt8[np.ndarray, "side side"]] = []
        self._running: collections.deque[tuple[int, tuple[Array, Array]]] = collections.deque()
        self._hemorrhage: list[np.ndarray] = [np.zeros(0, np.float32)]
        self._location: list[np.ndarray] = [np.zeros((0, 3), np.float32)]

    def add(self, image: UInt8[np.ndarray, "side side"]) -> None:
        """Adds a slice; a full batch is started."""
        self._waiting.append(image)
        if len(self._waiting) == self._classifier.batch:
            self._start()

    def finish(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
        """The probabilities of all slices added: hemorrhage, and location given hemorrhage.

        Raises InputError where the model's output is not finite.
        """
        if self._waiting:
            self._start()
        while self._running:
            self._collect()
        probabilities = np.concatenate(self._hemorrhage), np.concatenate(self._location)
        if not all(np.isfinite(values).all() for values in probabilities):
            raise InputError("the model's probabilities are not numbers: its weights are damaged")
        return probabilities

    def _start(self) -> None:
        images = np.stack(self._waiting)
        self._waiting.clear()
        self._running.append((len(images), self._classifier.begin(images)))
        if len(self._running) > _BATCHES_AHEAD:
            self._collect()

    def _collect(self) -> None:
        count, (hemorrhage, location) = self._running.popleft()
        self._hemorrhage.append(np.asarray(hemorrhage)[:count])
        self._location.append(np.asarray(location)[:count])
