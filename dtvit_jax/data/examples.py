"""Training examples: each one a function of the seed and of its place in the sequence."""

import numpy as np
from jaxtyping import Float32

from data_builder.errors import InputError
from data_builder.records import CLASSES
from dtvit_jax.data.augment import Augmentation, stream
from dtvit_jax.data.shards import SliceSource

BALANCES = ("replicate", "weights", "none")
"""How training slices are balanced: seen more often, weighed in the loss, or not at all."""


def replication(strata: np.ndarray) -> np.ndarray:
    """How often each class of CLASSES is seen in an epoch (section 2.2.3 of the paper).

    Integer factors: first the locations up to the largest of them, floor(largest / class); then
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


def class_weights(strata: np.ndarray) -> Float32[np.ndarray, "4 2"]:
    """Weights of each class of CLASSES in the two tasks' losses, from the training slices.

    In each task every class weighs the same in total, and the mean weight is 1: n / (k n_c). The
    location task counts ICH slices; its fourth class, where a model has one, weighs as the others.
    """
    slices = np.bincount(strata, minlength=len(CLASSES)).astype(np.float32)
    hemorrhage, places = slices[1:].sum(), np.count_nonzero(slices[1:])
    weights = np.zeros((len(CLASSES), 2), np.float32)
    seen = np.maximum(slices, 1)
    weights[0, 0] = slices.sum() / (2 * seen[0])
    weights[1:, 0] = slices.sum() / (2 * max(hemorrhage, 1))
    weights[:, 1] = hemorrhage / (max(places, 1) * seen)
    return weights


class TrainingExamples:
    """All epochs as one long sequence: `[i]` is a function of seed and i alone."""

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
        self._epoch = np.repeat(np.arange(len(source)), factors[source.strata])
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def epoch_length(self) -> int:
        """Examples an epoch, replicas counted."""
        return len(self._epoch)

    def __len__(self) -> int:
        return np.iinfo(np.int32).max

    def _drawn(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's order, and the parameters of its examples."""
        # Not functools.lru_cache of a method, whose cycle would keep a source's decoded slices in
        # memory after its use, until Python collects cycles.
        if epoch not in self._epochs:
            n = len(self._epoch)
            order = stream(self._seed, epoch, "order").permutation(n)
            drawn = order, self._augmentation.draw(self._seed, epoch, n)
            self._epochs = {epoch: drawn, **dict(list(self._epochs.items())[:1])}
        return self._epochs[epoch]

    def __getitem__(self, i: int) -> dict:
        epoch, place = divmod(int(i), len(self._epoch))
        order, parameters = self._drawn(epoch)
        which = order[place]
        row = self._source[int(self._epoch[which])]
        row["augmentation"] = parameters[which]
        if self._weights is not None:
            row["class_weight"] = self._weights[row["location"] + 1]
        return row
