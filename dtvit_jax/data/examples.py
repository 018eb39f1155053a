"""The sequence of training examples: balanced, shuffled and with drawn augmentation parameters.

Example i is a function of the seed and of i alone, so that a run can start anywhere in the
sequence, and the number of threads and processes makes no difference.
"""

from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from data_builder.errors import InputError
from data_builder.records import CLASSES
from dtvit_jax.data.augment import Augmentation, stream
from dtvit_jax.data.shards import SliceSource

BALANCES = ("replicate", "weights", "none")
"""Values of config.data.balance: slices are replicated, weighted in the loss, or neither."""


def replication(strata: Int[np.ndarray, " slices"]) -> Int[np.ndarray, " 4"]:
    """Returns how often an epoch repeats the slices of each of CLASSES (section 2.2.3).

    Integer factors: first each location up to the largest one, floor(largest / location); then
    the smaller of ICH and normal up to the larger. Published counts give 3, 1, 3, 12.
    """
    slices = np.bincount(strata, minlength=len(CLASSES))
    factors = np.ones(len(CLASSES), int)
    largest = slices[1:].max()
    for i, n in enumerate(slices[1:], start=1):
        factors[i] = largest // n if n else 1
    normal, hemorrhage = slices[0], int((factors * slices)[1:].sum())
    if 0 < normal < hemorrhage:
        factors[0] = hemorrhage // normal
    elif hemorrhage:
        factors[1:] *= max(normal // hemorrhage, 1)
    return factors


def class_weights(strata: Int[np.ndarray, " slices"]) -> Float32[np.ndarray, "4 2"]:
    """Returns the weights of each of CLASSES in the losses of both tasks.

    n / (k n_c): in each task all classes have the same total weight, and the mean weight is 1. The
    location task counts ICH slices; its fourth class, where a model has one, weighs as the others.
    """
    slices = np.bincount(strata, minlength=len(CLASSES)).astype(np.float32)
    hemorrhage, locations = slices[1:].sum(), np.count_nonzero(slices[1:])
    weights = np.zeros((len(CLASSES), 2), np.float32)
    divisors = np.maximum(slices, 1)
    weights[0, 0] = slices.sum() / (2 * divisors[0])
    weights[1:, 0] = slices.sum() / (2 * max(hemorrhage, 1))
    weights[:, 1] = hemorrhage / (max(locations, 1) * divisors)
    return weights


class TrainingExamples:
    """All epochs as one sequence without an end.

    `[i]` is a dict: the slice (`SliceSource`), `augmentation` (a row of augment.PARAMETERS) and,
    with balance='weights', `class_weight` (float32 [2]: one for each task's loss).

    Args:
      source: the training slices.
      balance: one of BALANCES. Raises InputError for any other.
      augmentation: ranges of the parameters.
      seed: of order and parameters.
    """

    def __init__(
        self, source: SliceSource, balance: str, augmentation: Augmentation, seed: int
    ) -> None:
        if balance not in BALANCES:
            raise InputError(
                f"config.data.balance={balance!r}: it is one of {', '.join(map(repr, BALANCES))}"
            )
        self._source, self._augmentation, self._seed = source, augmentation, seed
        self._weights = class_weights(source.strata) if balance == "weights" else None
        factors = replication(source.strata) if balance == "replicate" else np.ones(4, int)
        self._slice_of_replica = np.repeat(np.arange(len(source)), factors[source.strata])
        self._drawn: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def epoch_length(self) -> int:
        """Examples of an epoch, replicas included."""
        return len(self._slice_of_replica)

    def __len__(self) -> int:
        return np.iinfo(np.int32).max  # grain asks for a length; so many examples never end

    def _order_and_parameters(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """An epoch's permutation, and the parameters of its examples.

        Two epochs are kept. Threads read and draw without a lock: at worst one is drawn twice.
        """
        drawn = self._drawn.get(epoch)
        if drawn is None:
            n = len(self._slice_of_replica)
            order = stream(self._seed, epoch, "order").permutation(n)
            drawn = order, self._augmentation.draw(self._seed, epoch, n)
            self._drawn = {epoch: drawn, **dict(list(self._drawn.items())[:1])}
        return drawn

    def __getitem__(self, i: int) -> dict[str, Any]:
        epoch, position = divmod(int(i), len(self._slice_of_replica))
        order, parameters = self._order_and_parameters(epoch)
        replica = order[position]
        example = self._source[int(self._slice_of_replica[replica])]
        example["augmentation"] = parameters[replica]
        if self._weights is not None:
            example["class_weight"] = self._weights[example["location"] + 1]
        return example
