"""Estimates what merging tokens (ToMe, arXiv 2210.09461) would save and cost on tissue patches.

    python benchmarks/token_merging.py [--tokens 100] [--batch 16] [--merged 4]

Times a block of ViT-S/16, forward, and one merging before it: bipartite soft matching on the keys'
mean over heads, `merged` pairs a block. Prints both, and the fraction of all blocks' products that
merging in every block would save, by arithmetic. It is no part of the program.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dtvit_jax.models.block import Block
from dtvit_jax.models.layers_cpu import AUTO
from dtvit_jax.models.vit import SIZES
from dtvit_jax.runtime import prepare

SIZE = SIZES["s"]


def merged(x: jax.Array, keys: jax.Array, pairs: int) -> jax.Array:
    """[batch, tokens, width] with `pairs` tokens fewer: each merged one is added to its likeliest
    of the other half, and the sum divided by its number. The class token is left alone."""
    keys = keys / jnp.linalg.norm(keys, axis=-1, keepdims=True)
    scores = keys[:, 1::2] @ keys[:, 2::2].swapaxes(1, 2)
    order = jnp.argsort(-scores.max(-1), axis=-1)
    partner = scores.argmax(-1)

    def one(x: jax.Array, order: jax.Array, partner: jax.Array) -> jax.Array:
        odd, even = x[1::2], x[2::2]
        gone = order[:pairs]
        total = even.at[partner[gone]].add(odd[gone])
        number = jnp.ones(len(even)).at[partner[gone]].add(1)
        return jnp.concatenate([x[:1], odd[order[pairs:]], total / number[:, None]])

    return jax.vmap(one)(x, order, partner)


def products(tokens: float) -> float:
    """Multiplications of one block for one slice."""
    return 4 * tokens * SIZE.width**2 + 2 * tokens * SIZE.width * (SIZE.mlp + tokens)


def milliseconds(f: Callable, *given: jax.Array) -> float:
    f = jax.jit(f)
    taken = []
    for _ in range(60):
        start = time.perf_counter()
        jax.block_until_ready(f(*given))
        taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken[10:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--merged", type=int, default=4)
    args = parser.parse_args()
    prepare()
    block = Block(
        SIZE,
        gelu="exact",
        norm_epsilon=1e-6,
        rate=0.0,
        kernels=AUTO,
        dtype=jnp.float32,
        rngs=nnx.Rngs(0),
    )
    graph, state = nnx.split(block)
    x = jax.random.normal(jax.random.key(0), (args.batch, args.tokens + 1, SIZE.width))
    keys = jax.random.normal(jax.random.key(1), (*x.shape[:2], SIZE.width // SIZE.heads))
    whole = milliseconds(lambda s, x: nnx.merge(graph, s)(x), state, x)
    shorter = milliseconds(lambda s, x: nnx.merge(graph, s)(x), state, x[:, args.merged :])
    cost = milliseconds(functools.partial(merged, pairs=args.merged), x, keys)
    left = [products(args.tokens + 1 - args.merged * i) for i in range(SIZE.depth)]
    saved = 1 - sum(left) / (SIZE.depth * products(args.tokens + 1))
    print(f"block of S, batch {args.batch}, {args.tokens} tokens: {whole:.2f} ms")
    print(f"the same with {args.merged} tokens fewer: {shorter:.2f} ms")
    print(f"merging {args.merged} of them: {cost:.2f} ms")
    print(f"products left out over {SIZE.depth} blocks: {100 * saved:.0f}%")


if __name__ == "__main__":
    main()
