"""The training loop, to be read from top to bottom."""

import contextlib
import functools
import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import ml_collections

from data_builder.errors import InputError
from dtvit_jax import memory, pretrained, run_record, weights
from dtvit_jax.checkpoint import Checkpoints, has_checkpoint
from dtvit_jax.console import TrainingProgress
from dtvit_jax.input_pipeline import (
    SliceSource,
    TrainingExamples,
    evaluation_batches,
    open_shards,
    training_batches,
)
from dtvit_jax.prefetch import Prefetched
from dtvit_jax.run_setup import (
    check_batch,
    check_config,
    initial_state,
    make_augmentation,
    make_task,
    step_memory,
)
from dtvit_jax.sharding import batch_sharding, make_mesh, state_sharding
from dtvit_jax.steps import SUMS, Task, TrainState, evaluate_step, figures, train_step

STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}


def train(config: ml_collections.ConfigDict, workdir: Path, command: str) -> int:
    """Trains what `config` describes in `workdir`, or goes on where the run there stopped.

    Returns the exit status: 0 when all steps are done, 130 or 143 when SIGINT or SIGTERM stopped
    it (everything is saved; the same command goes on). Raises InputError for bad input.
    """
    check_config(config)
    augmentation = make_augmentation(config)
    mesh = make_mesh(config.mesh)

    shards = open_shards(config.data)
    examples = TrainingExamples(
        shards.source("train"), config.data.balance, augmentation, config.seed
    )
    validation = shards.source("validation")
    epoch_steps = examples.epoch_length / config.batch_size
    steps = config.num_steps or int(config.num_epochs * epoch_steps)
    check_batch(config, mesh.size, examples.epoch_length, steps)

    initial = None if config.init_from == "scratch" else weights.locate(config.init_from)
    if initial is not None:
        told = pretrained.model_options(initial, config.model.name, config.init_heads)
        config.model.update(told)
    task, abstract = make_task(config, steps)
    need = step_memory(config, task, abstract)
    memory.check(need, config.batch_size // mesh.size, config.accumulation, memory.available())
    loaded = None
    if initial is not None and not has_checkpoint(workdir):  # before anything is written
        given = config.model.to_dict()
        loaded = pretrained.load_into(
            initial, given, abstract.params, abstract.stats, config.init_heads
        )
    run_record.claim_workdir(workdir, config)
    placed = state_sharding(mesh, abstract)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, placed
    )
    checkpoints = Checkpoints(workdir, config.best)
    on_devices = batch_sharding(mesh)
    batches = Prefetched(
        training_batches(examples, config.batch_size), functools.partial(put, where=on_devices)
    )
    history: list[dict[str, Any]] = []
    sums = dict.fromkeys((*SUMS, "steps"), 0.0)
    seconds = waited = 0.0
    if checkpoints.latest is None:
        state = initial_state(config, task, placed, loaded)
        del loaded
        run = run_record.describe_run(
            command, config, shards.metadata, sum(x.size for x in jax.tree.leaves(abstract.params))
        )
        run_record.write_json(workdir / "run.json", run)
    else:
        state, progress = checkpoints.restore(checkpoints.latest, abstract)
        batches.set_state(progress["batches"])
        history, sums, seconds = progress["history"], progress["sums"], progress["seconds"]
        waited = progress["waited"]
        run = json.loads((workdir / "run.json").read_text())

    step_fn = jax.jit(functools.partial(train_step, task=task), donate_argnums=0)
    evaluate_fn = jax.jit(functools.partial(evaluate_step, task=task))
    first = int(state.step)
    evaluate_at = evaluation_steps(steps, config.eval_every_epochs * epoch_steps)
    waiting: list[dict[str, jax.Array]] = []
    started = time.monotonic() - seconds

    logged: dict[str, jax.Array] = {}

    with (
        contextlib.closing(batches),
        TrainingProgress(first, steps) as progress_bar,
        stop_signals() as stopped,
    ):
        for step in range(first, steps + 1):
            metrics = None
            leaving = bool(stopped)  # asked once: a signal after this waits for the next step
            if step in evaluate_at and not evaluated(history, step):
                sums = add(sums, waiting)
                epoch = round(step / epoch_steps, 4)
                if step:
                    history.append(row(step, epoch, "train", figures(sums, task.weights)))
                metrics = validate(state, validation, config.eval_batch_size, evaluate_fn, task)
                check_finite(metrics, step, workdir)
                history.append(row(step, epoch, "validation", metrics))
                sums = dict.fromkeys(sums, 0.0)
                progress_bar.tell(f"epoch {epoch:g}: {in_words(history)}")
            if metrics is not None or leaving:
                sums = add(sums, waiting)
                progress = {
                    "batches": batches.get_state(),
                    "history": history,
                    "sums": sums,
                    "seconds": time.monotonic() - started,
                    "waited": waited + batches.waited,
                }
                checkpoints.save(step, state, progress, metrics)
                run_record.write_history(workdir, history)
            if step == steps or leaving:
                break
            batch = batches.take(busy=logged)
            state, logged = step_fn(state, batch)
            waiting.append(logged)
            progress_bar.advance(step + 1, logged["loss"])
    checkpoints.close()
    if leaving:
        print(
            f"stopped at step {step} of {steps}, saved; the same command goes on", file=sys.stderr
        )
        return STOPPED[stopped[0]]
    run["train_seconds"] = round(time.monotonic() - started, 1)
    run["waited_for_data_seconds"] = round(waited + batches.waited, 1)
    run_record.write_json(workdir / "run.json", run)
    print(f"trained {steps} steps; evaluate with: python -m dtvit_jax.evaluate --workdir {workdir}")
    return 0


def put(batch: dict[str, Any], where: jax.sharding.Sharding) -> dict[str, jax.Array]:
    """What the step takes of a batch, on the devices."""
    return jax.device_put({k: v for k, v in batch.items() if k != "index"}, where)


def evaluation_steps(steps: int, every: float) -> set[int]:
    """0, each multiple of `every` (rounded), and the last step."""
    return {0, steps} | {round(i * every) for i in range(1, int(steps / every) + 1)}


def validate(
    state: TrainState, source: SliceSource, batch_size: int, evaluate_fn: Any, task: Task
) -> dict[str, float]:
    """Losses and accuracies over every validation slice once."""
    total = dict.fromkeys(SUMS, 0.0)
    for batch in evaluation_batches(source, batch_size):
        batch.pop("index")
        sums, _, _ = evaluate_fn(state.params, state.stats, batch)
        total = add(total, [sums])
    return figures(total, task.weights)


def check_finite(metrics: dict[str, float], step: int, workdir: Path) -> None:
    """Raises InputError where a figure is not a number; the checkpoints before it stay."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise InputError(
                f"the validation {name} is {value} at step {step}: the last good checkpoint stays "
                f"in {workdir}; take a smaller --config.learning_rate into a new --workdir"
            )


def add(sums: dict[str, float], waiting: list[dict[str, jax.Array]]) -> dict[str, float]:
    """Adds what the device has logged, and empties the list."""
    fetched = jax.device_get(waiting)
    waiting.clear()
    return {name: sums[name] + sum(float(x[name]) for x in fetched if name in x) for name in sums}


def row(step: int, epoch: float, split: str, values: dict[str, float]) -> dict[str, Any]:
    return {"step": step, "epoch": epoch, "split": split, **values}


def evaluated(history: list[dict[str, Any]], step: int) -> bool:
    return bool(history) and history[-1]["step"] == step


def in_words(history: list[dict[str, Any]]) -> str:
    parts = [
        f"{r['split']} loss {r['loss']:.4f}, accuracy {r['accuracy_hemorrhage']:.3f} and "
        f"{r['accuracy_location']:.3f}"
        for r in history[-2:]
    ]
    return "; ".join(parts)


@contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """Collects SIGINT and SIGTERM; the loop saves and leaves at the next step."""
    seen: list[signal.Signals] = []

    def note(number: int, frame: Any) -> None:
        del frame
        seen.append(signal.Signals(number))

    before = {number: signal.signal(number, note) for number in STOPPED}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
