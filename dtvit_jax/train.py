"""The training loop, to be read from top to bottom."""

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from dtvit_jax.data import packing
from dtvit_jax.data.examples import TrainingExamples
from dtvit_jax.data.loader import Prefetched, evaluation_batches, training_batches
from dtvit_jax.data.shards import open_shards
from dtvit_jax.runs.trained_run import open_weights
from dtvit_jax.training import distributed, memory, record
from dtvit_jax.training.checkpoint import Checkpoints, has_checkpoint, saved_config
from dtvit_jax.training.config_checks import check_batch, check_config
from dtvit_jax.training.disk_space import saying_disk_full
from dtvit_jax.training.failures import check_finite, keeping_the_batch, stop_signals, stop_status
from dtvit_jax.training.monitor import StepLog, StepTrace, TrainingProgress, describe, show
from dtvit_jax.training.setup import (
    initial_state,
    make_augmentation,
    make_task,
    make_tissue,
    step_memory,
)
from dtvit_jax.training.sharding import (
    batch_sharding,
    gather_for_use,
    held_by_one,
    make_mesh,
    state_sharding,
)
from dtvit_jax.training.steps import (
    SUMS,
    Task,
    TrainState,
    evaluated_model,
    figures,
    train_step,
    validation_step,
)
from dtvit_jax.training.tensorboard import TensorBoard
from dtvit_jax.training.validation import (
    check_best,
    evaluated,
    evaluation_steps,
    evaluations_since_best,
    row,
    slice_metrics,
)
from dtvit_jax.weights import hub, load


def train(config: ml_collections.ConfigDict, workdir: Path, command: str) -> int:
    """Trains what `config` describes in `workdir`, or goes on where the run there stopped.

    Returns the exit status: 0 when all steps are done, 130 or 143 when SIGINT or SIGTERM stopped
    it (everything is saved; the same command goes on). Raises InputError for bad input.
    """
    check_config(config)
    augmentation = make_augmentation(config)
    mesh = make_mesh(config.mesh)
    distributed.check_source(config.data.source)
    primary = distributed.is_primary()  # the process that writes and speaks

    shards = open_shards(config.data)
    examples = TrainingExamples(
        shards.source("train"), config.data.balance, augmentation, config.seed
    )
    validation = shards.source("validation")
    check_best(validation.strata, config.best)
    epoch_steps = examples.epoch_length / config.batch_size
    steps = config.num_steps or int(config.num_epochs * epoch_steps)
    check_batch(config, mesh.size, examples.epoch_length, steps)

    initial = None
    if config.init_from != "scratch":
        initial = open_weights(hub.locate(config.init_from))
    if initial is not None:
        told = load.model_options(initial, config.model.name, config.init_heads)
        config.model.update(told)
    task, abstract = make_task(config, steps)
    placed = state_sharding(mesh, abstract)
    need = step_memory(config, task, abstract)
    need = dataclasses.replace(need, state=held_by_one(abstract, placed))
    memory.check(need, config.batch_size // mesh.size, config.accumulation, memory.available())
    loaded = None
    if initial is not None and not has_checkpoint(workdir):  # before anything is written
        given = config.model.to_dict()
        loaded = load.load_into(initial, given, abstract.params, abstract.stats, config.init_heads)
    saved = saved_config(workdir)
    distributed.primary_does(lambda: record.claim_workdir(workdir, config, saved))
    task = dataclasses.replace(task, gather=gather_for_use(placed.params))
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, placed
    )
    checkpoints = Checkpoints(workdir, config.best, config.keep)
    on_devices, everywhere = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    rows = distributed.local_rows(on_devices, config.batch_size)
    tissue = make_tissue(config)
    packer = packing.for_training(tissue, examples, config, mesh.size)
    held_out = functools.partial(
        evaluation_batches,
        validation,
        config.eval_batch_size,
        distributed.local_rows(on_devices, config.eval_batch_size),
        packing.for_evaluation(tissue, validation, config.eval_batch_size, mesh.size),
    )
    batches = Prefetched(
        training_batches(examples, config.batch_size, rows, packer=packer),
        functools.partial(put, placed=on_devices),
    )
    restored = checkpoints.restore_latest(abstract)
    if restored is None:
        state = initial_state(config, task, placed, loaded)
        progress: dict[str, Any] = {"history": [], "sums": {}, "seconds": 0.0, "waited": 0.0}
        run = record.describe_run(
            command, config, shards.metadata, sum(x.size for x in jax.tree.leaves(abstract.params))
        )
        if primary:
            record.write_json(workdir / "run.json", run)
    else:
        state, progress = restored
        batches.set_state(progress["batches"])
        run = json.loads((workdir / "run.json").read_text())
    del loaded, restored
    history: list[dict[str, Any]] = progress["history"]
    first, started = int(state.step), time.monotonic() - progress["seconds"]
    waited = progress["waited"]  # for data, by the steps before this process's

    agreement = distributed.Agreement(mesh)
    step_fn = jax.jit(
        functools.partial(train_step, task=task),
        donate_argnums=0,
        out_shardings=(placed, everywhere),
    )
    validation_fn = jax.jit(functools.partial(validation_step, task=task), out_shardings=everywhere)
    evaluate_at = evaluation_steps(steps, config.eval_every_epochs * epoch_steps)

    with (
        saying_disk_full(workdir),
        stop_signals() as stopped,
        TrainingProgress(first, steps, primary) as progress_bar,
        TensorBoard(workdir / "tensorboard", first, primary) as board,
        StepTrace(workdir / "profile", first, steps, config.profile and primary) as trace,
        keeping_the_batch(workdir, examples, shards.source("train"), config),
        closing(checkpoints),
        closing(batches),
    ):
        if first < steps:  # by one core, while the device still makes the weights
            step_fn.lower(state, batches.peek()).compile()
        log = StepLog(board, progress["sums"])
        logged: dict[str, jax.Array] = {}
        if not first:
            describe(board, config, task, abstract, examples)
        for step in range(first, steps + 1):
            metrics = None
            leaving = agreement.reached(bool(stopped))  # asked once a step
            if step in evaluate_at and not evaluated(history, step):
                log.fetch()
                epoch = round(step / epoch_steps, 4)
                of_training = figures(log.start_again(), task.weights)
                history.append(row(step, epoch, "train", of_training))
                metrics = validate(state, held_out(), on_devices, validation_fn, task)
                check_finite("validation", metrics, step)
                history.append(row(step, epoch, "validation", metrics))
                show(history, epoch, board, progress_bar)
            if metrics is not None or leaving:
                log.fetch()
                check_finite("training", {"norm of the parameters": norm(state.params)}, step)
                board.flush()
                progress = {
                    "batches": batches.get_state(),
                    "history": history,
                    "sums": log.sums,
                    "seconds": time.monotonic() - started,
                    "waited": waited + batches.waited,
                    "config": record.public_config(config),
                }
                checkpoints.save(step, state, progress, metrics)
                if primary:
                    record.write_history(workdir, history)
            early = 0 < config.early_stopping <= evaluations_since_best(history, config.best)
            if step == steps or leaving or early:
                break
            batch = batches.take(busy=logged)
            with trace.step(step), jax.transfer_guard("disallow"):
                state, logged = step_fn(state, batch)
            trace.done(step, logged)
            log.append(step + 1, logged)
            if (step + 1) % config.log_every_steps == 0:
                log.fetch(leave=1)
            progress_bar.advance(step + 1, logged["loss"])
    if not primary:
        return stop_status(stopped) if leaving else 0
    if leaving:
        print(
            f"stopped at step {step} of {steps}, saved; the same command goes on", file=sys.stderr
        )
        return stop_status(stopped)
    run["train_seconds"] = round(time.monotonic() - started, 1)
    run["waited_for_data_seconds"] = round(waited + batches.waited, 1)
    record.write_json(workdir / "run.json", run)
    if early and step < steps:
        print(f"no better {config.best} in {config.early_stopping} validations: stopped early")
    print(f"trained {step} steps; evaluate with: python -m dtvit_jax.evaluate --workdir {workdir}")
    return 0


def put(batch: dict[str, Any], placed: NamedSharding) -> dict[str, Any]:
    """What the step takes of a batch, on the devices."""
    return distributed.to_devices({k: v for k, v in batch.items() if k != "index"}, placed)


def validate(
    state: TrainState,
    batches: Iterable[dict[str, Any]],
    on_devices: NamedSharding,
    validation_fn: Any,
    task: Task,
) -> dict[str, float]:
    """Losses, accuracies and metrics over all slices of `batches`."""
    model = evaluated_model(state)
    total, tables = dict.fromkeys(SUMS, 0.0), []
    for batch in batches:
        sums, table = jax.device_get(validation_fn(*model, put(batch, on_devices)))
        total = {name: value + float(sums[name]) for name, value in total.items()}
        mask = table.pop("mask")
        tables.append({name: column[mask] for name, column in table.items()})
    of_sums = figures(total, task.weights)
    if not np.isfinite(list(of_sums.values())).all():
        return of_sums
    table = {name: np.concatenate([part[name] for part in tables]) for name in tables[0]}
    return of_sums | slice_metrics(**table)


def norm(params: Any) -> float:
    """The parameters' norm; infinite or nan where one of them is."""
    return float(jax.device_get(_norm(params)))


_norm = jax.jit(optax.tree.norm)
