"""Rematerialisation and scan over blocks: what each does to compile time, memory and speed.

    python benchmarks/remat_scan.py --model s --batch 16 [--rounds 3] [--variants plain remat scan]

The program's own train step in float32 on the CPU, each variant in a process of its own without
the cache of compiled programs. Prints Markdown: seconds to compile the step, XLA's count of its
temporary memory, the process's peak of resident memory, and the median seconds a step.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from typing import Any

VARIANTS = {
    "plain": {},
    "remat": {"remat": True},
    "scan": {"scan": True},
    "remat + scan": {"remat": True, "scan": True},
}


def measure(variant: str, model: str, batch: int, rounds: int, pipe: Any) -> None:
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"
    from train_step import our_step

    _, state, step, given = our_step(model, batch, **VARIANTS[variant])
    import jax

    start = time.perf_counter()
    compiled = step.lower(state, given).compile()
    seconds_to_compile = time.perf_counter() - start
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        state = jax.block_until_ready(compiled(state, given))[0]
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    memory = compiled.memory_analysis().temp_size_in_bytes
    pipe.send((seconds_to_compile, memory, peak, statistics.median(seconds[1:])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="s")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    args = parser.parse_args()
    print(f"ViT-{args.model.upper()}/16, batch {args.batch}, {os.cpu_count()} cores\n")
    print("| blocks | compile, s | temporaries, GiB | peak resident, GiB | step, s |")
    print("|---|---|---|---|---|", flush=True)
    context = multiprocessing.get_context("spawn")
    for variant in args.variants:
        ours, theirs = context.Pipe()
        given = (variant, args.model, args.batch, args.rounds, theirs)
        process = context.Process(target=measure, args=given)
        process.start()
        theirs.close()
        compiling, memory, peak, step = ours.recv()
        process.join()
        row = f"{compiling:.1f} | {memory / 2**30:.2f} | {peak / 2**30:.2f} | {step:.2f}"
        print(f"| {variant} | {row} |", flush=True)


if __name__ == "__main__":
    main()
