"""A run in its workdir: what is saved and restored, and what people see while it trains."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import jax
import optax

from data_builder.errors import InputError
from data_builder.files import write_json
from data_builder.shards import places
from dtvit_jax.data.loader import Prefetched
from dtvit_jax.data.shards import name_of
from dtvit_jax.models.variables import Tree
from dtvit_jax.training import distributed, record
from dtvit_jax.training.checkpoint import Checkpoints, RunProgress, has_checkpoint, saved_config
from dtvit_jax.training.disk_space import saying_disk_full
from dtvit_jax.training.failures import StopSignals, check_finite, keeping_the_batch, stop_signals
from dtvit_jax.training.monitor import ProgressDisplay, StepLog, StepTrace, describe, show
from dtvit_jax.training.record import RunRecord
from dtvit_jax.training.steps import Batch, TrainState, mean_figures
from dtvit_jax.training.tensorboard import TensorBoard
from dtvit_jax.training.trainer import Trainer
from dtvit_jax.training.validation import (
    history_row,
    is_validated,
    validation_steps,
    validations_since_best,
)


class TrainingRun:
    """One process's part of a run. Its methods are used inside of `open`, `finish` after it.

    Attributes:
      state: parameters, moments and averages as they are now.
      steps_before: steps that were done when this process began.
    """

    def __init__(
        self,
        trainer: Trainer,
        workdir: Path,
        checkpoints: Checkpoints,
        batches: Prefetched,
        run_record: RunRecord,
        state: TrainState,
        progress: RunProgress,
    ) -> None:
        self.state = state
        self.steps_before = int(state.step)
        self._trainer, self._data, self._config = trainer, trainer.data, trainer.config
        self._workdir, self._record = workdir, run_record
        self._checkpoints, self._batches = checkpoints, batches
        self._history, self._sums = progress["history"], progress["sums"]
        self._began = time.monotonic() - progress["seconds"]
        self._waited_before = progress["waited"]
        every = self._config.eval_every_epochs * self._data.epoch_steps
        self._validation_steps = validation_steps(self._data.steps, every)
        self._agreement = distributed.Agreement(trainer.mesh)
        self._primary = distributed.is_primary()
        self._logged: dict[str, jax.Array] = {}

    @contextmanager
    def open(self) -> Iterator[StopSignals]:
        """Opens what the run writes to, compiles the step, and collects signals to stop.

        Whatever ends the block, what is being saved is finished. Raises InputError where the disk
        is full, or where a loss or gradient is not finite.
        """
        config, workdir, primary = self._config, self._workdir, self._primary
        data, first, steps = self._data, self.steps_before, self._data.steps
        with ExitStack() as stack:
            enter = stack.enter_context
            enter(saying_disk_full(workdir))
            signals = enter(stop_signals())
            self._display = enter(ProgressDisplay(first, steps, primary))
            self._board = enter(TensorBoard(workdir / "tensorboard", first, primary))
            profiled = config.profile and primary
            self._trace = enter(StepTrace(workdir / "profile", first, steps, profiled))
            enter(keeping_the_batch(workdir, data.examples, data.shards.source("train"), config))
            enter(closing(self._checkpoints))
            enter(closing(self._batches))
            self._log = StepLog(self._board, self._sums)
            if first < steps:
                # The first call loads this program from JAX's cache. Compiling it here overlaps
                # with the making of the weights and of the first batch.
                self._trainer.step.lower(self.state, self._batches.peek()).compile()
            if not first:
                describe(
                    self._board, config, self._trainer.setup, self._trainer.abstract, data.examples
                )
            yield signals

    def agree_to_stop(self, signals: StopSignals) -> bool:
        """Whether a process of the run got a signal. Each process asks once a step."""
        return self._agreement.reached(bool(signals))

    def validate(self, step: int) -> dict[str, float] | None:
        """Validates the state after `step` steps, if that is due; returns the figures.

        The figures of validation, and of the training since the validation before, are added to
        the history and shown. Raises NotFiniteError where one is nan or infinite.
        """
        if step not in self._validation_steps or is_validated(self._history, step):
            return None
        epoch = round(step / self._data.epoch_steps, 4)
        self._log.fetch()
        of_training = mean_figures(self._log.start_again(), self._trainer.setup.loss_weights)
        self._history.append(history_row(step, epoch, "train", of_training))
        metrics = self._trainer.validate(self.state)
        check_finite("validation", metrics, step)
        self._history.append(history_row(step, epoch, "validation", metrics))
        show(self._history, epoch, self._board, self._display)
        return metrics

    def save(self, step: int, metrics: dict[str, float] | None) -> None:
        """Saves the state after `step` steps, with the validation's figures where there are some.

        Raises NotFiniteError, and saves nothing, where the parameters' norm is not finite.
        """
        self._log.fetch()
        norm = float(jax.device_get(_norm(self.state.params)))
        check_finite("training", {"norm of the parameters": norm}, step)
        self._board.flush()
        progress = RunProgress(
            batches=self._batches.get_state(),
            history=self._history,
            sums=self._log.sums,
            seconds=time.monotonic() - self._began,
            waited=self._waited_before + self._batches.waited,
            config=record.public_config(self._config),
        )
        self._checkpoints.save(step, self.state, progress, metrics)
        if self._primary:
            record.write_history(self._workdir, self._history)

    def is_past_its_best(self) -> bool:
        """Whether config.early_stopping validations in a row were no better than the best."""
        patience = self._config.early_stopping
        return 0 < patience <= validations_since_best(self._history, self._config.best)

    def next_batch(self) -> Batch:
        """The next batch, on the devices."""
        return self._batches.take(busy=self._logged)

    def trace(self, step: int) -> jax.profiler.StepTraceAnnotation:
        """A context that names the next step in a profile; the profile begins here if it is due."""
        return self._trace.step(step)

    def log(self, step: int, logged: dict[str, jax.Array]) -> None:
        """Takes what the step logged that made it `step` steps; it may not be computed yet."""
        self._logged = logged
        self._trace.done(step - 1, logged)
        self._log.append(step, logged)
        if step % self._config.log_every_steps == 0:
            self._log.fetch(leave=1)
        self._display.advance(step, logged["loss"])

    def finish(self, step: int, leaving: bool, signals: StopSignals) -> int:
        """Completes run.json and reports how the run ended; returns the exit status."""
        steps = self._data.steps
        status = signals.exit_status if leaving else 0
        if not self._primary:
            return status
        if leaving:
            words = f"stopped at step {step} of {steps}, saved; the same command continues"
            print(words, file=sys.stderr)
            return status
        waited = self._waited_before + self._batches.waited
        self._record["train_seconds"] = round(time.monotonic() - self._began, 1)
        self._record["waited_for_data_seconds"] = round(waited, 1)
        write_json(self._workdir / "run.json", self._record)
        if step < steps:
            patience, best = self._config.early_stopping, self._config.best
            print(f"no better {best} in {patience} validations: stopped early")
        workdir = self._workdir
        print(
            f"trained {step} steps; evaluate with: python -m dtvit_jax.evaluate --workdir {workdir}"
        )
        return 0


def start_or_resume(trainer: Trainer, workdir: Path, command: str) -> TrainingRun:
    """The run in `workdir`: a new one, or the one there as its last whole checkpoint left it.

    `command` goes into run.json. Raises InputError where the workdir can't be written, is in use,
    or holds a run with another config, on another data set or with more steps. Until then nothing
    is written.
    """
    config, data = trainer.config, trainer.data
    # Weights that do not fit are reported before the workdir is made; a continued run has its own.
    loaded = trainer.take_weights(wanted=not has_checkpoint(workdir))
    saved = saved_config(workdir)
    distributed.primary_does(lambda: record.claim_workdir(workdir, config, saved))
    checkpoints = Checkpoints(workdir, config.best, config.keep)
    batches = trainer.batches()
    restored = checkpoints.restore_latest(trainer.abstract)
    if restored is not None:
        state, progress = restored
        if (steps := int(state.step)) > data.steps:  # config.num_steps may change
            raise InputError(
                f"the run in {workdir} has done {steps} steps and the config asks for "
                f"{data.steps}: give more, or another --workdir"
            )
        batches.set_state(progress["batches"])
    else:
        state = trainer.initial_state(loaded)
        progress = RunProgress(
            batches=None, history=[], sums={}, seconds=0.0, waited=0.0, config={}
        )
    run_record = _record(trainer, workdir, command, resumed=restored is not None)
    if distributed.is_primary():
        record.write_history(workdir, progress["history"])
        places.remember(name_of(config.data, run_record["dataset"]["digest"]), data.shards.folder)
    return TrainingRun(trainer, workdir, checkpoints, batches, run_record, state, progress)


def _record(trainer: Trainer, workdir: Path, command: str, resumed: bool) -> RunRecord:
    """run.json; a new one where the run is new, or where it is missing.

    Raises InputError where it is damaged, or of another data set than the trainer's.
    """
    path, dataset = workdir / "run.json", trainer.data.shards.metadata
    if resumed and path.exists():
        run_record = record.read_record(workdir)
        if run_record["dataset"]["digest"] != dataset["digest"]:
            raise InputError(
                "--workdir holds a run on another data set: give another --workdir, or the data "
                "set of before to go on"
            )
        return run_record
    parameters = sum(x.size for x in jax.tree.leaves(trainer.abstract.params))
    run_record = record.describe_run(command, trainer.config, dataset, parameters)
    if distributed.is_primary():
        if resumed:
            print("run.json of --workdir was missing: this command writes it", file=sys.stderr)
        write_json(path, run_record)
    return run_record


@jax.jit
def _norm(params: Tree) -> jax.Array:
    """The parameters' norm; infinite or nan where one of them is."""
    return optax.tree.norm(params)
