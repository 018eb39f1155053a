"""Batches of tissue patches in few shapes: which lengths there are, and how a batch is laid out.

A batch keeps its slices and their order. Its length is the number of all its patches, rounded up
to one of a few levels, so that a step compiles at most `LEVELS` times.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from dtvit_jax.data.tissue import Tissue
from dtvit_jax.models.packed import Packing

LEVELS = 5
"""Shapes that a step is compiled for, the whole slices' own among them."""

SETS = 4
"""Padded lengths that attention is computed at, where the slices can be divided by it."""

SAMPLED_SLICES = 512
"""Slices that the levels are chosen by."""

DRAWN_BATCHES = 2000
"""Batches drawn from the sampled slices to choose the levels by."""


@dataclasses.dataclass(frozen=True)
class Level:
    """A shape: tokens of a group's flat sequence, and attention's lengths, longest first.

    Neither counts class tokens in `tokens`; both do in `lengths`.
    """

    tokens: int
    lengths: tuple[int, ...]

    def fits(self, counts: Int[np.ndarray, "groups slices"]) -> bool:
        """Whether slices with so many patches can be laid out in this shape."""
        longest = _longest(counts, len(self.lengths)) + 1
        return bool(counts.sum(1).max() <= self.tokens and (longest <= self.lengths).all())


def choose_levels(counts: Sequence[int], slices: int, patches: int) -> tuple[Level, ...]:
    """Levels for groups of `slices`, from the patches of some slices; the last fits any group.

    All but the last are such that groups drawn at random from `counts` have the least padding.
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
    """Up to `parts` values, the last the largest, by which rounding up adds least on average."""
    values, number = np.unique(_round_up(totals, 8), return_counts=True)
    seen = np.concatenate([[0], np.cumsum(number)])
    cost = values * seen[1:]  # of the first i + 1 values with one break, at the i-th
    before: list[np.ndarray] = []
    for _ in range(parts - 1):
        # of all up to i: one break at i, the earlier ones at their best up to some j < i
        table = np.where(
            np.tri(len(values), k=-1, dtype=bool),
            cost[None, :] + values[:, None] * (seen[1:, None] - seen[None, 1:]),
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
    """The most patches in each set, when each group's slices are sorted into `sets` by them."""
    in_order = -np.sort(-counts, axis=1)
    return in_order[:, :: counts.shape[1] // sets].max(0)


def _round_up(n: Any, step: int) -> Any:
    return -(-np.asarray(n) // step) * step


def in_groups(
    kept: Bool[np.ndarray, "batch patches"], groups: int, accumulation: int
) -> Bool[np.ndarray, "groups slices patches"]:
    """As `steps.train_step` divides a batch: group `device * accumulation + part` has that part
    of that device's slices."""
    patches = kept.shape[1]
    kept = kept.reshape(groups // accumulation, -1, accumulation, patches).swapaxes(1, 2)
    return kept.reshape(groups, -1, patches)


def pack(
    kept: Bool[np.ndarray, "batch patches"], level: Level, groups: int, accumulation: int = 1
) -> Packing:
    """Lays out a batch, `in_groups`, in the shape of a level that fits it."""
    slices, sets = len(kept) // groups, len(level.lengths)
    kept = in_groups(kept, groups, accumulation)
    counts = kept.sum(2)
    source = np.full((groups, level.tokens), -1, np.int32)
    rows = [np.full((groups, slices // sets, n), -1, np.int32) for n in level.lengths]
    place = np.full((groups, slices + level.tokens), -1, np.int32)
    slot = np.empty((groups, slices), np.int32)
    starts = np.concatenate([[0], np.cumsum([slices // sets * n for n in level.lengths])])
    for group in range(groups):
        found = np.flatnonzero(kept[group])
        source[group, : len(found)] = found
        order = np.argsort(-counts[group], kind="stable")
        slot[group, order] = np.arange(slices)
        first = slices + np.concatenate([[0], np.cumsum(counts[group])])
        for at, which in enumerate(order):
            chosen, line = divmod(at, slices // sets)
            flat = np.concatenate([[which], np.arange(first[which], first[which + 1])])
            rows[chosen][group, line, : len(flat)] = flat
            begin = starts[chosen] + line * level.lengths[chosen]
            place[group, flat] = begin + np.arange(len(flat))
    return Packing(source, tuple(rows), place, slot)


class Packer:
    """Adds `packing` to a batch: which patches hold tissue, at the smallest level that fits.

    Args:
      batch_size: slices of the whole batch, in all processes.
      groups: devices of all processes, times `accumulation`.
      mixes: slices are blended in pairs (`mixup`): both then keep the patches of either.
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
        """`batch` with `packing`.

        Args:
          batch: `rows` of a global batch.
          example: any row of it. The level is chosen by all, so that every process takes the same
            one: each looks at all slices of the batch, and nothing needs to be sent.
        """
        of_row = {int(row): at for at, row in enumerate(rows)}
        kept = np.stack(
            [
                self._kept(batch, of_row[row]) if row in of_row else self._kept_of(example(row))
                for row in range(self._batch_size)
            ]
        )
        parts = self._accumulation
        if self._mixes:  # as mixup.partner pairs each part of the batch
            for part in range(parts):
                kept[part::parts] |= np.roll(kept[part::parts], self._batch_size // parts // 2, 0)
        counts = in_groups(kept, self._groups, parts).sum(2)
        level = next(level for level in self.levels if level.fits(counts))
        groups = self._groups * len(rows) // self._batch_size
        return {**batch, "packing": pack(kept[rows], level, groups, parts)}

    def _kept(self, batch: dict[str, Any], at: int) -> np.ndarray:
        return self._kept_of({k: batch[k][at] for k in ("image", "augmentation") if k in batch})

    def _kept_of(self, row: dict[str, Any]) -> np.ndarray:
        return self._tissue.kept(row["image"], row.get("augmentation"))


def for_training(tissue: Tissue | None, examples: Any, config: Any, devices: int) -> Packer | None:
    """The packer of a run's training batches; its levels come from the first examples."""
    if tissue is None:
        return None
    some = range(min(examples.epoch_length, SAMPLED_SLICES))
    rows = (examples[i] for i in some)
    kept = np.stack([tissue.kept(row["image"], row["augmentation"]) for row in rows])
    mixes = config.augment.get("mixup", 0) > 0
    if mixes:
        kept |= np.roll(kept, 1, axis=0)
    groups = devices * config.accumulation
    levels = choose_levels(kept.sum(1).tolist(), config.batch_size // groups, tissue.patches)
    return Packer(tissue, levels, config.batch_size, groups, config.accumulation, mixes)


def for_evaluation(
    tissue: Tissue | None, source: Any, batch_size: int, devices: int
) -> Packer | None:
    """The packer of evaluation batches; its levels come from slices all over `source`."""
    if tissue is None:
        return None
    some = range(0, len(source), -(-len(source) // SAMPLED_SLICES))
    counts = [int(tissue.kept(source[i]["image"]).sum()) for i in some]
    levels = choose_levels(counts, batch_size // devices, tissue.patches)
    return Packer(tissue, levels, batch_size, devices)
