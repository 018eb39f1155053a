"""Times the training step and the forward pass against torchvision's ViT, in turn in one call.

    ./launch.sh parity                                        (sets up .venv-parity)
    .venv-parity/bin/python benchmarks/train_step.py --model ti --batch 32

Both get the same batch in float32, two MLP heads, the two-task loss and AdamW; weights are random.
Each contestant lives in a process of its own, as a user would run it, with all cores; they wait for
their turn, so that one computes at a time, and a round takes one step of each in turn. Printed: the
median time of each, and the median over rounds of torchvision's time by the other's, with the
quartiles: above 1 is faster than torchvision.

torchvision's runs eagerly (torch.compile is not used) with its scaled_dot_product_attention, fused
AdamW, and in inference_mode for the forward pass, where torch then takes its native encoder path.
Ours is the program's own train_step (losses, accuracies and gradient norm included), set up as
dtvit_jax.main does. L with a batch of 4 takes 10 GB of memory for both.

With --source SRC (a folder in the published layout; shards are built in --data_dir once) `tissue`
is a contestant too: config.model.tokens='tissue' on those slices with the paper's augmentation. Its
time is that of the whole way, from the shards to the end of the step: reading, decoding, finding
the patches, packing, the transfer and the transform, which the others, with one batch that lies
ready and is transformed, do not have. Every shape but the whole slices' is compiled before the
rounds begin, and a turn in which a program is compiled all the same is named.

A contestant's name may be followed by flags for XLA, which its process alone gets: `--contestants
dtvit_jax "dtvit_jax --xla_cpu_enable_fast_math=true"` says what a flag is worth.

Compiled programs are kept (`dtvit_jax.runtime`): where L takes too long for one call, begin
with --contestants tissue --rounds 0, then --contestants dtvit_jax --rounds 0.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

WIDTHS = {"ti": (192, 3, 768), "s": (384, 6, 1536), "b": (768, 12, 3072), "l": (1024, 16, 4096)}
DEPTHS = {"ti": 12, "s": 12, "b": 12, "l": 24}
PATCH, SIDE = 16, 224


def batch_of(n: int) -> dict[str, np.ndarray]:
    """Normalised images [n, side, side, 3] and both labels; location -1 where there is none."""
    rng = np.random.default_rng(0)
    hemorrhage = np.arange(n, dtype=np.int32) % 2
    return {
        "image": rng.normal(size=(n, SIDE, SIDE, 3)).astype(np.float32),
        "hemorrhage": hemorrhage,
        "location": np.where(hemorrhage, rng.integers(0, 3, n), -1).astype(np.int32),
    }


def torchvision_vit(
    model: str, depth: int, batch: int, threads: int, data_dir: str
) -> dict[str, Callable]:
    del data_dir
    import torch
    from torch import nn

    from tests.helpers.make_references import import_torchvision

    VisionTransformer = import_torchvision().models.VisionTransformer

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    width, heads, mlp = WIDTHS[model]

    def head(classes: int) -> nn.Module:
        hidden = nn.Linear(width, width // 2)
        return nn.Sequential(hidden, nn.ReLU(), nn.Dropout(0.1), nn.Linear(width // 2, classes))

    class DualTask(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = VisionTransformer(SIDE, PATCH, depth, heads, width, mlp)
            self.encoder.heads = nn.Identity()
            self.hemorrhage, self.location = head(2), head(3)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = self.encoder(images)
            return self.hemorrhage(features), self.location(features)

    net = DualTask()
    given = batch_of(batch)
    images = torch.from_numpy(given["image"]).permute(0, 3, 1, 2).contiguous()
    first, second = (torch.from_numpy(given[k]).long() for k in ("hemorrhage", "location"))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-5, weight_decay=0.01, fused=True)

    def train() -> None:
        net.train()
        logits = net(images)
        loss = 0.5 * nn.functional.cross_entropy(logits[0], first)
        loss = loss + 0.5 * nn.functional.cross_entropy(logits[1], second, ignore_index=-1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def forward() -> None:
        net.eval()
        with torch.inference_mode():
            net(images)

    return {"train": train, "forward": forward}


def our_step(model: str, batch: int, depth: int = 0, **options: Any) -> tuple[Any, ...]:
    """Returns the program's setup, state, compiled train_step and a batch of transformed images."""
    from dtvit_jax.runtime import prepare

    prepare()
    import dataclasses
    import functools

    import jax

    from configs import vit_l
    from dtvit_jax.data.augment import IDENTITY
    from dtvit_jax.models import vit
    from dtvit_jax.training.setup import abstract_state, initial_state, make_setup
    from dtvit_jax.training.sharding import make_mesh, placed_on
    from dtvit_jax.training.steps import train_step

    vit.SIZES[model] = dataclasses.replace(vit.SIZES[model], depth=depth or DEPTHS[model])
    config = vit_l.get_config()
    config.model.name = f"vit_{model}{PATCH}"
    config.model.update(options)
    setup = make_setup(config, steps=10)
    abstract = abstract_state(setup)
    network = dataclasses.replace(setup.network, transform=lambda images, augmentation: images)
    setup = dataclasses.replace(setup, network=network)
    state = initial_state(config, setup, placed_on(make_mesh(config.mesh), abstract))
    identity = np.repeat(IDENTITY[None], batch, 0)
    given = jax.device_put({**batch_of(batch), "augmentation": identity})
    step = jax.jit(functools.partial(train_step, setup=setup), donate_argnums=0)
    return setup, state, step, given


def dtvit_jax(
    model: str, depth: int, batch: int, threads: int, data_dir: str
) -> dict[str, Callable]:
    del threads, data_dir  # XLA takes all cores that the process may use
    setup, state, step, given = our_step(model, batch, depth)
    import jax

    logits = jax.jit(lambda params, stats, x: setup.network.model(params, stats)(x))

    def train() -> None:
        nonlocal state
        state, logged = step(state, given)
        jax.block_until_ready((state, logged))

    def forward() -> None:
        jax.block_until_ready(logits(state.params, state.stats, given["image"]))

    return {"train": train, "forward": forward}


def tissue(model: str, depth: int, batch: int, threads: int, data_dir: str) -> dict[str, Callable]:
    from dtvit_jax.runtime import prepare

    prepare()
    import dataclasses
    import functools
    import itertools

    import jax

    from configs import vit_l
    from dtvit_jax.data import packing
    from dtvit_jax.data.examples import TrainingExamples
    from dtvit_jax.data.loader import Prefetched, evaluation_batches, training_batches
    from dtvit_jax.data.shards import open_shards
    from dtvit_jax.models import vit
    from dtvit_jax.training import distributed
    from dtvit_jax.training.network import make_tissue
    from dtvit_jax.training.setup import (
        abstract_state,
        initial_state,
        make_augmentation,
        make_setup,
    )
    from dtvit_jax.training.sharding import batch_sharding, make_mesh, placed_on
    from dtvit_jax.training.steps import evaluate_step, train_step

    del threads
    vit.SIZES[model] = dataclasses.replace(vit.SIZES[model], depth=depth)
    config = vit_l.get_config()
    config.model.name, config.init_from = f"vit_{model}{PATCH}", "scratch"
    config.model.tokens, config.batch_size, config.data.dir = "tissue", batch, data_dir
    setup = make_setup(config, steps=10)
    abstract = abstract_state(setup)
    mesh = make_mesh(config.mesh)
    placed = placed_on(mesh, abstract)
    state = initial_state(config, setup, placed)

    def to_device(batch: dict[str, Any]) -> dict[str, Any]:
        on_host = {name: value for name, value in batch.items() if name != "index"}
        return distributed.to_devices(on_host, batch_sharding(mesh))

    source = open_shards(config.data).source("train")
    examples = TrainingExamples(source, config.data.balance, make_augmentation(config), config.seed)
    rule = make_tissue(config)
    packer = packing.for_training(rule, examples, config, mesh.size)
    batches = Prefetched(training_batches(examples, batch, packer=packer), to_device)
    eval_packer = packing.for_evaluation(rule, source, batch, mesh.size)
    assert rule is not None and packer is not None and eval_packer is not None
    whole = itertools.chain.from_iterable(
        evaluation_batches(source, batch, packer=eval_packer) for _ in itertools.count()
    )
    nothing = np.zeros((batch, rule.patches), bool)
    step = jax.jit(functools.partial(train_step, setup=setup), donate_argnums=0)
    answer = jax.jit(functools.partial(evaluate_step, network=setup.network))
    compiled: set[str] = set()

    def run_train(given: dict) -> None:
        nonlocal state
        state, logged = step(state, given)
        jax.block_until_ready((state, logged))

    def run_forward(given: dict) -> None:
        jax.block_until_ready(answer(state.params, state.stats, given))

    def once(name: str, run: Callable[[dict], None], given: dict, levels: tuple) -> None:
        if name not in compiled:  # each shape but the whole slices', which no batch here needs
            for level in levels[:-1]:
                empty = packing.pack(nothing, level, mesh.size)
                run(given | to_device({"packing": empty}))
            compiled.add(name)

    def train() -> None:
        given = batches.take()
        once("train", run_train, given, packer.levels)
        run_train(given)

    def forward() -> None:
        given = to_device(next(whole))
        once("forward", run_forward, given, eval_packer.levels)
        run_forward(given)

    return {"train": train, "forward": forward}


CONTESTANTS = {"torchvision": torchvision_vit, "dtvit_jax": dtvit_jax, "tissue": tissue}
"""Functions (model, depth, batch, threads, data_dir) that return both calls to time, by name."""


def shards(source: str, data_dir: str) -> None:
    """Builds the shards of `source` for configs/vit_l.py, unless they exist."""
    from configs import vit_l
    from dtvit_jax.data.shards import open_shards

    config = vit_l.get_config()
    config.data.source, config.data.dir, config.data.key = source, data_dir, ""
    open_shards(config.data)


def contest(name: str, options: tuple, pipe: Any) -> None:
    """Answers each task's name with its seconds and the number of programs that it compiled (or
    read from the cache), until it receives None."""
    name, *flags = name.split()
    if flags:
        os.environ["XLA_FLAGS"] = " ".join(flags)
    turns = CONTESTANTS[name](*options)
    compiled: list[str] = []
    if name != "torchvision":
        import jax

        def listen(event: str, seconds: float, **facts: Any) -> None:
            if event == "/jax/core/compile/backend_compile_duration":
                compiled.append(event)

        jax.monitoring.register_event_duration_secs_listener(listen)
    while (task := pipe.recv()) is not None:
        compiled.clear()
        start = time.perf_counter()
        turns[task]()
        pipe.send((time.perf_counter() - start, len(compiled)))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def measure(names: list[str], options: tuple, tasks: list[str], rounds: int) -> dict[str, Any]:
    """Seconds [rounds] of each (task, contestant), taken in turn; the first turns don't count."""
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name in names:
        ours, theirs = context.Pipe()
        context.Process(target=contest, args=(name, options, theirs), daemon=True).start()
        theirs.close()
        pipes[name] = ours

    def turn(name: str, task: str, counts: bool = True) -> float:
        pipes[name].send(task)
        seconds, compiled = pipes[name].recv()
        if counts and compiled:
            print(f"NOT USABLE: {name} compiled {compiled} programs in a timed turn of {task}")
        return seconds

    seconds: dict[str, Any] = {}
    for task in tasks:
        for name in names:
            for _ in range(2):  # compiles, then fills the caches
                turn(name, task, counts=False)
            print(f"{name} is ready for {task}", file=sys.stderr, flush=True)
        taken = [[turn(name, task) for name in names] for _ in range(rounds)]
        seconds[task] = np.array(taken)
    for name, pipe in pipes.items():
        pipe.send(None)
        print(f"peak memory of the process: {name:12s} {pipe.recv():.2f} GiB")
    return seconds


def contestant(text: str) -> str:
    """A name of CONTESTANTS, and flags for XLA if any."""
    if text.split()[:1] and text.split()[0] in CONTESTANTS:
        return text
    raise argparse.ArgumentTypeError(f"{text!r}: it begins with one of {', '.join(CONTESTANTS)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=WIDTHS, default="ti")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--depth", type=int, help="blocks (default: the model's own)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tasks", nargs="+", choices=["train", "forward"])
    parser.add_argument("--contestants", nargs="+", type=contestant, metavar="NAME")
    parser.add_argument("--source", help="slices in the published layout, for `tissue`")
    parser.add_argument("--data_dir", help="where their shards lie or are built")
    args = parser.parse_args()
    depth, threads = args.depth or DEPTHS[args.model], len(os.sched_getaffinity(0))
    names = args.contestants or [name for name in CONTESTANTS if args.data_dir or name != "tissue"]
    if args.source:
        shards(args.source, args.data_dir)
    options = (args.model, depth, args.batch, threads, args.data_dir)
    print(f"ViT-{args.model.upper()}/{PATCH}, {depth} blocks, batch {args.batch}, {threads} cores")
    seconds = measure(names, options, args.tasks or ["train", "forward"], args.rounds)
    for task, taken in seconds.items() if args.rounds else ():
        for name, column in zip(names, taken.T, strict=True):
            line = f"{task:8s} {name:12s} {statistics.median(column):8.3f} s"
            if name != names[0]:
                low, middle, high = np.quantile(taken[:, 0] / column, (0.25, 0.5, 0.75))
                line += f"   {names[0]} / {name}: {middle:.3f} (quartiles {low:.3f}, {high:.3f})"
            print(line, flush=True)


if __name__ == "__main__":
    main()
