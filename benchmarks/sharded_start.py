"""How much memory the start of a run takes in one process, and in each of several that share it.

    python benchmarks/sharded_start.py --model vit_h14 --processes 1
    python benchmarks/sharded_start.py --model vit_h14 --processes 2
    python benchmarks/sharded_start.py --model vit_h14 --processes 2 --weights FILE

The start is what the trainer does: parameters made, or read from FILE (`--write FILE` writes random
ones first), where they shall live, and AdamW's two moments; no step is run. Processes meet over
loopback with fsdp = their number. Prints each process's peak of resident memory
(resource.getrusage), what it was before the state was made, and the bytes of its part of the state.
"""

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path


def peak() -> int:
    """Bytes of resident memory at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(model: str, weights: str) -> None:
    from dtvit_jax.training import distributed

    distributed.connect()
    import jax

    from configs import vit_l
    from dtvit_jax.training.setup import abstract_state, initial_state, make_setup
    from dtvit_jax.training.sharding import make_mesh, placed_on
    from dtvit_jax.weights import files, load

    config = vit_l.get_config()
    config.model.name = model
    mesh = make_mesh({"data": 1, "fsdp": jax.process_count()})
    setup = make_setup(config, steps=1)
    abstract = abstract_state(setup)
    placed = placed_on(mesh, abstract)
    before, start = peak(), time.monotonic()
    loaded = None
    if weights:
        given = config.model.to_dict()
        loaded = load.load_into(files.read(Path(weights)), given, abstract.params, abstract.stats)
    state = jax.block_until_ready(initial_state(config, setup, placed, loaded))
    del loaded
    here = sum(s.data.nbytes for x in jax.tree.leaves(state) for s in x.addressable_shards)
    answer = {
        "process": jax.process_index(),
        "peak": peak(),
        "before": before,
        "state": here,
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps(answer))


def write(model: str, path: str) -> None:
    import jax
    import ml_collections

    from configs import vit_l
    from dtvit_jax.models.variables import split_model
    from dtvit_jax.training.network import make_model
    from dtvit_jax.weights.save import save

    config: ml_collections.ConfigDict = vit_l.get_config()
    config.model.name = model
    params = jax.jit(lambda: split_model(make_model(config))[1])()
    save(Path(path), config.model.to_dict(), params, {}, heads=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit_h14")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--weights", default="", help="read the parameters from this file")
    parser.add_argument("--write", default="", help="write random parameters to this file, no more")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.model, args.weights)
    if args.write:
        return write(args.model, args.write)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--child", "--model", args.model]
    command += ["--weights", args.weights] if args.weights else []
    shared = {**os.environ, "JAX_PLATFORMS": "cpu"}
    if args.processes > 1:
        shared |= {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(args.processes),
        }
    children = []
    for i in range(args.processes):
        own = {"JAX_PROCESS_ID": str(i)} if args.processes > 1 else {}
        children.append(
            subprocess.Popen(command, env={**shared, **own}, stdout=subprocess.PIPE, text=True)
        )
    print(f"{args.model}, {args.processes} process(es), {'read' if args.weights else 'made'}")
    for one in children:
        lines = one.communicate()[0].splitlines()
        if one.returncode:
            sys.exit(f"a process ended with {one.returncode}")
        measured = json.loads(lines[-1])
        print(
            f"  process {measured['process']}: peak {measured['peak'] / 1e9:.2f} GB, before "
            f"{measured['before'] / 1e9:.2f} GB, its state {measured['state'] / 1e9:.2f} GB, "
            f"{measured['seconds']} s"
        )


if __name__ == "__main__":
    main()
