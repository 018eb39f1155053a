"""Reports the compiled training step's memory, with all patches and with those of tissue.

    python benchmarks/tissue_memory.py --model vit_s16 --batch 16 --data_dir DIR

DIR holds shards of size 256 (`python -m data_builder build SRC --data_dir DIR`). Nothing is run:
for each shape of the step XLA tells what it will hold at once (`memory_analysis`): state and batch
and temporary buffers. 'taken' is how often 200 random batches need that level.
"""

import argparse
import functools
import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs import vit_l
from dtvit_jax.data import packing
from dtvit_jax.data.examples import TrainingExamples
from dtvit_jax.data.shards import open_shards
from dtvit_jax.runtime import prepare
from dtvit_jax.training.network import make_tissue
from dtvit_jax.training.setup import abstract_state, make_augmentation, make_setup
from dtvit_jax.training.steps import train_step

GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="vit_s16")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--levels", type=int, nargs="*", help="which to compile (default: all)")
    args = parser.parse_args()
    prepare()
    config = vit_l.get_config()
    config.model.name, config.init_from, config.data.dir = args.model, "scratch", args.data_dir
    config.batch_size, config.model.tokens = args.batch, "tissue"
    rule = make_tissue(config)
    source = open_shards(config.data).source("train")
    augmentation = make_augmentation(config)
    examples = TrainingExamples(source, config.data.balance, augmentation, config.seed)
    packer = packing.for_training(rule, examples, config, 1)
    assert rule is not None and packer is not None
    some = [examples[i] for i in range(packing.SAMPLED_SLICES)]
    counts = np.array([rule.kept(row["image"], row["augmentation"]).sum() for row in some])
    rng, taken = np.random.default_rng(2), np.zeros(len(packer.levels), int)
    for _ in range(200):
        drawn = rng.choice(counts, (1, args.batch))
        taken[next(i for i, level in enumerate(packer.levels) if level.fits(drawn))] += 1

    batch = {
        "image": np.zeros((args.batch, 256, 256), np.uint8),
        "augmentation": np.stack([row["augmentation"] for row in some[: args.batch]]),
        "hemorrhage": np.zeros(args.batch, np.int32),
        "location": np.zeros(args.batch, np.int32),
    }

    def needs(tokens: str, given: dict) -> float:
        config.model.tokens = tokens
        setup = make_setup(config, steps=10)
        abstract = abstract_state(setup)
        step = jax.jit(functools.partial(train_step, setup=setup), donate_argnums=0)
        memory = step.lower(abstract, given).compile().memory_analysis()
        kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
        return (kept - memory.alias_size_in_bytes + memory.temp_size_in_bytes) / GIB

    print(f"{args.model}, batch {args.batch}")
    dense = needs("all", batch)
    print(f"all     {dense:6.2f} GiB", flush=True)
    nothing = np.zeros((args.batch, rule.patches), bool)
    for i, level in enumerate(packer.levels):
        if args.levels is not None and i not in args.levels:
            continue
        need = needs("tissue", {**batch, "packing": packing.pack(nothing, level, 1)})
        print(
            f"tissue  {need:6.2f} GiB  {100 * (need / dense - 1):+5.1f}%  {level.tokens} tokens, "
            f"attention {level.lengths}, taken {taken[i]} of 200",
            flush=True,
        )


if __name__ == "__main__":
    main()
