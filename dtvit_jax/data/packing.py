"""Lays out batches of tissue patches in a few fixed shapes, so that a step compiles few times.

A batch keeps its slices and their order. Its patches are counted and padded to the smallest of at
most `LEVELS` shapes, chosen at the start from a sample of slices (`choose_levels`); `Packer` adds
the layout (`models.packed.Packing`) to each batch.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from dtvit_jax.data.examples import TrainingExamples
from dtvit_jax.data.shards import SliceSource
from dtvit_jax.data.tissue import Tissue
from dtvit_jax.models.packed import Packing

LEVELS = 5
"""Shapes that a step is compiled for, including the one of all patches."""

SETS = 4
"""Padded lengths of attention in a level, if the number of slices is a multiple of it."""

SAMPLED_SLICES = 512
"""Slices whose patches are counted to choose the levels."""

DRAWN_BATCHES = 2000
"""Batches drawn from these slices to choose the levels."""


@dataclasses.dataclass(frozen=True)
class Level:
    """A shape that a batch's groups are padded to.

    Attributes:
      tokens: length of a group's flat sequence of patches, without class tokens.
      lengths: attention's padded lengths of the sets of slices, longest first, each with the class
        token.
    """

    tokens: int
    lengths: tuple[int, ...]

    def fits(self, counts: Int[np.ndarray, "groups slices"]) -> bool:
        """Returns whether slices with `counts` patches fit into this shape."""
        longest = _longest(counts, len(self.lengths)) + 1
        return bool(counts.sum(1).max() <= self.tokens and (longest <= self.lengths).all())


def choose_levels(counts: Sequence[int], slices: int, patches: int) -> tuple[Level, ...]:
    """Chooses the levels for groups of slices, smallest first; the last fits any group.

    The others minimise the padding of groups drawn at random from `counts`.

    Args:
      counts: kept patches of sampled slices.
      slices: slices of a group.
      patches: patches of a whole slice.
    """
    sets = next(n for n in (SETS, 2, 1) if slices % n == 0)
    whole = Level(slices * patches, (patches + 1,) * sets)
    drawn = np.random.default_rng(0).choice(np.asarray(counts), (DRAWN_BATCHES, slices))
    totals = drawn.sum(1)
    levels: list[Level] = []
    for tokens in _breaks(np.sort(totals), LEVELS - 1):
        within = drawn[totals <= tokens]
        lengths = _round_up(_longest(within, sets) + 1, 8)
        level = Level(
            min(int(_round_up(tokens, 8)), whole.tokens),
            tuple(int(min(n, patches + 1)) for n in lengths),
        )
        if level != whole and level not in levels:
            levels.append(level)
    return (*levels, whole)


def _breaks(totals: Int[np.ndarray, " drawn"], parts: int) -> list[int]:
    """Returns up to `parts` values, the last the largest; rounding up to them adds the least.

    By dynamic programming over the sorted totals, in steps of 8.
    """
    values, number = np.unique(_round_up(totals, 8), return_counts=True)
    cumulative = np.concatenate([[0], np.cumsum(number)])
    cost = values * cumulative[1:]  # of the first i + 1 values with one break, at the i-th
    before: list[np.ndarray] = []
    for _ in range(parts - 1):
        # Of all up to i: one break at i, the earlier breaks at their best up to some j < i.
        table = np.where(
            np.tri(len(values), k=-1, dtype=bool),
            cost[None, :] + values[:, None] * (cumulative[1:, None] - cumulative[None, 1:]),
            np.iinfo(np.int64).max,
        )
        table[np.arange(len(values)), np.arange(len(values))] = cost
        before.append(table.argmin(1))
        cost = table.min(1)
    chosen = [len(values) - 1]
    for best in reversed(before):
        chosen.append(int(best[chosen[-1]]))
    return sorted({int(values[i]) for i in chosen})


def _longest(counts: np.ndarray, sets: int) -> np.ndarray:
    """Returns the most patches of a slice in each set, the slices of each group sorted by them."""
    descending = -np.sort(-counts, axis=1)
    return descending[:, :: counts.shape[1] // sets].max(0)


def _round_up(n: Any, step: int) -> Any:
    return -(-np.asarray(n) // step) * step


def in_groups(
    kept: Bool[np.ndarray, "batch patches"], groups: int, accumulation: int
) -> Bool[np.ndarray, "groups slices patches"]:
    """Divides a batch as `steps.train_step` does: into groups device * accumulation + part."""
    patches = kept.shape[1]
    kept = kept.reshape(groups // accumulation, -1, accumulation, patches).swapaxes(1, 2)
    return kept.reshape(groups, -1, patches)


def pack(
    kept: Bool[np.ndarray, "batch patches"], level: Level, groups: int, accumulation: int = 1
) -> Packing:
    """Lays out a batch in the shape of a level that it fits (see `in_groups` for its division)."""
    slices, sets = len(kept) // groups, len(level.lengths)
    kept = in_groups(kept, groups, accumulation)
    counts = kept.sum(2)
    source = np.full((groups, level.tokens), -1, np.int32)
    rows = [np.full((groups, slices // sets, n), -1, np.int32) for n in level.lengths]
    place = np.full((groups, slices + level.tokens), -1, np.int32)
    slot = np.empty((groups, slices), np.int32)
    starts = np.concatenate([[0], np.cumsum([slices // sets * n for n in level.lengths])])
    for group in range(groups):
        patches = np.flatnonzero(kept[group])
        source[group, : len(patches)] = patches
        order = np.argsort(-counts[group], kind="stable")
        slot[group, order] = np.arange(slices)
        first = slices + np.concatenate([[0], np.cumsum(counts[group])])
        for rank, index in enumerate(order):
            of_set, line = divmod(rank, slices // sets)
            flat = np.concatenate([[index], np.arange(first[index], first[index + 1])])
            rows[of_set][group, line, : len(flat)] = flat
            begin = starts[of_set] + line * level.lengths[of_set]
            place[group, flat] = begin + np.arange(len(flat))
    return Packing(source, tuple(rows), place, slot)


class Packer:
    """Adds `packing` to a batch: its tissue patches, laid out at the smallest level that fits.

    Args:
      tissue: the rule that selects patches.
      levels: shapes, smallest first; the last fits any batch.
      batch_size: of all processes together.
      groups: devices of all processes, times `accumulation`.
      accumulation: parts that a device's slices are computed in.
      mixes: slices are blended in pairs (mixup): both then keep the patches of either.
    """

    def __init__(
        self,
        tissue: Tissue,
        levels: tuple[Level, ...],
        batch_size: int,
        groups: int,
        accumulation: int = 1,
        mixes: bool = False,
    ) -> None:
        self._tissue, self.levels, self._batch_size = tissue, levels, batch_size
        self._groups, self._accumulation, self._mixes = groups, accumulation, mixes

    def __call__(
        self, batch: dict[str, Any], rows: np.ndarray, example: Callable[[int], dict[str, Any]]
    ) -> dict[str, Any]:
        """Returns `batch` with `packing`.

        Args:
          batch: `rows` of the batch of all processes.
          example: returns any row of that batch. Every process reads all of its slices, so that
            all choose the same level without communication.
        """
        index_of = {int(row): index for index, row in enumerate(rows)}

        def example_of(row: int) -> dict[str, Any]:
            if row not in index_of:
                return example(row)
            return {name: column[index_of[row]] for name, column in batch.items()}

        examples = map(example_of, range(self._batch_size))
        kept = np.stack([self._tissue.kept(e["image"], e.get("augmentation")) for e in examples])
        parts = self._accumulation
        if self._mixes:  # the pairs of augment.partner, in each part of the batch
            for part in range(parts):
                kept[part::parts] |= np.roll(kept[part::parts], self._batch_size // parts // 2, 0)
        counts = in_groups(kept, self._groups, parts).sum(2)
        level = next(level for level in self.levels if level.fits(counts))
        groups = self._groups * len(rows) // self._batch_size
        return {**batch, "packing": pack(kept[rows], level, groups, parts)}


def for_training(
    tissue: Tissue | None, examples: TrainingExamples, config: Any, devices: int
) -> Packer | None:
    """Returns the packer of a run's training batches, with levels from the first examples.

    None without a rule (config.model.tokens='all').
    """
    if tissue is None:
        return None
    sample = range(min(examples.epoch_length, SAMPLED_SLICES))
    drawn = (examples[i] for i in sample)
    kept = np.stack([tissue.kept(each["image"], each["augmentation"]) for each in drawn])
    mixes = config.augment.mixup > 0
    if mixes:
        kept |= np.roll(kept, 1, axis=0)
    groups = devices * config.accumulation
    levels = choose_levels(kept.sum(1).tolist(), config.batch_size // groups, tissue.patches)
    return Packer(tissue, levels, config.batch_size, groups, config.accumulation, mixes)


def for_evaluation(
    tissue: Tissue | None, source: SliceSource, batch_size: int, devices: int
) -> Packer | None:
    """Returns the packer of evaluation batches, with levels from slices spread over `source`.

    None without a rule (config.model.tokens='all').
    """
    if tissue is None:
        return None
    sample = range(0, len(source), -(-len(source) // SAMPLED_SLICES))
    counts = [int(tissue.kept(source[i]["image"]).sum()) for i in sample]
    levels = choose_levels(counts, batch_size // devices, tissue.patches)
    return Packer(tissue, levels, batch_size, devices)
