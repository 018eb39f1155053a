"""Evaluates the gray-histogram baseline on folds by subject and by slice, and the leak.

    python benchmarks/acquisition_baseline.py --source SRC --data_dir DIR

SRC is any source of data_builder's. Prints Markdown: figures with 95% intervals over subjects.
"""

import argparse
from pathlib import Path

from data_builder.shards.build import prepare
from data_builder.shards.splits import SplitPlan
from dtvit_jax.data.shards import Shards
from dtvit_jax.experiments import histogram_baseline
from dtvit_jax.experiments.page import MAIN, cell_in_words
from dtvit_jax.experiments.table import difference_of, row_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--key", default="", help="key file for pseudonyms (default: the site's)")
    args = parser.parse_args()
    seeds = {}
    for split in ("slice", "subject"):
        seeds[split] = {0: {}}
        for fold in range(args.folds):
            plan = SplitPlan(split, args.folds, fold)
            shards = Shards(prepare(args.source, args.data_dir, plan, args.size, args.key or None))
            seeds[split][0][fold] = histogram_baseline.predict(shards, "test", fold)
    print(f"| folds | by | {' | '.join(MAIN)} |")
    print("|---" * (len(MAIN) + 2) + "|")
    for level in ("subject", "slice"):
        for split, folds in seeds.items():
            row = row_of(folds, level)
            print(f"| {split} | {level} | {' | '.join(cell_in_words(row[x]) for x in MAIN)} |")
        leak = difference_of(seeds["slice"], seeds["subject"], level)
        cells = " | ".join(cell_in_words(leak[x], sign=True) for x in MAIN)
        print(f"| difference | {level} | {cells} |")


if __name__ == "__main__":
    main()
