"""A training on its devices: compiled steps, placed arrays, and the weights to begin with."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dtvit_jax.data import packing
from dtvit_jax.data.loader import Prefetched, evaluation_batches, training_batches
from dtvit_jax.models.variables import Variables
from dtvit_jax.training import distributed, memory
from dtvit_jax.training.inputs import TrainingData
from dtvit_jax.training.network import make_tissue
from dtvit_jax.training.setup import (
    abstract_state,
    initial_state,
    make_setup,
    step_memory,
    with_gathering,
)
from dtvit_jax.training.sharding import batch_sharding, held_by_one, placed_on, shardings
from dtvit_jax.training.steps import (
    SUMS,
    Batch,
    TrainState,
    mean_figures,
    train_step,
    validated_variables,
    validation_step,
)
from dtvit_jax.training.validation import slice_metrics
from dtvit_jax.weights import load
from dtvit_jax.weights.files import Weights


class Trainer:
    """What a config trains, on a mesh of devices. It knows nothing of a run's folder.

    Attributes:
      config: with the options that the weights were trained with (`load.model_options`).
      data: the examples and validation slices.
      mesh: axes 'data' and 'fsdp'.
      setup: what each step reads and none changes.
      abstract: shapes and placement of the state.
      step: (state, batch) -> (state, logged), compiled; it takes over the state's memory.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        data: TrainingData,
        mesh: Mesh,
        weights: Weights | None = None,
    ) -> None:
        """Compiles and allocates nothing yet.

        `weights`: to begin with, instead of random ones. The options that they were trained with
        are set in config.model. Raises InputError where the weights are another model's, or a step
        needs more memory than there is.
        """
        self.config, self.data, self.mesh = config, data, mesh
        self._initial = weights
        if weights is not None:
            options = load.model_options(weights, config.model.name, config.init_heads)
            config.model.update(options)
        setup = make_setup(config, data.steps)
        self.abstract = placed_on(mesh, abstract_state(setup))
        need = step_memory(config, setup, held_by_one(self.abstract))
        per_device = config.batch_size // mesh.size
        memory.check(need, per_device, config.accumulation, memory.available())

        self.setup = with_gathering(setup, self.abstract)
        self._over_devices = batch_sharding(mesh)
        everywhere = NamedSharding(mesh, PartitionSpec())
        self.step = jax.jit(
            functools.partial(train_step, setup=self.setup),
            donate_argnums=0,
            out_shardings=(shardings(self.abstract), everywhere),
        )
        self._validation_step = jax.jit(
            functools.partial(validation_step, network=self.setup.network),
            out_shardings=everywhere,
        )

    def take_weights(self, wanted: bool) -> Variables | None:
        """Parameters and statistics to begin with; None where all are random, or not `wanted`.

        Afterwards the trainer keeps no reference to the file's arrays, which may be as large as
        the model. Raises InputError where a parameter is missing, left over or of another shape.
        """
        weights, self._initial = self._initial, None
        if weights is None or not wanted:
            return None
        model = self.config.model.to_dict()
        params, stats = self.abstract.params, self.abstract.stats
        return load.load_into(weights, model, params, stats, self.config.init_heads)

    def initial_state(self, loaded: Variables | None) -> TrainState:
        """The state at step 0, of `take_weights` and of config.seed."""
        return initial_state(self.config, self.setup, self.abstract, loaded)

    def batches(self) -> Prefetched:
        """The endless batches of training, on the devices ahead of the step that takes them."""
        config, examples = self.config, self.data.examples
        packer = packing.for_training(make_tissue(config), examples, config, self.mesh.size)
        rows = distributed.local_rows(self._over_devices, config.batch_size)
        batches = training_batches(examples, config.batch_size, rows, packer=packer)
        return Prefetched(batches, self._to_devices)

    def validate(self, state: TrainState) -> dict[str, float]:
        """Figures over all validation slices: `steps.mean_figures`, `validation.slice_metrics`.

        Where a loss or accuracy is not finite, these alone.
        """
        model = validated_variables(state)
        total, tables = dict.fromkeys(SUMS, 0.0), []
        for batch in self._validation_batches():
            device_batch = self._to_devices(batch)
            sums, table = jax.device_get(self._validation_step(*model, device_batch))
            total = {name: value + float(sums[name]) for name, value in total.items()}
            mask = table.pop("mask")
            tables.append({name: column[mask] for name, column in table.items()})
        means = mean_figures(total, self.setup.loss_weights)
        if not np.isfinite(list(means.values())).all():
            return means
        columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        return means | slice_metrics(**columns)

    def _validation_batches(self) -> Iterable[Batch]:
        size = self.config.eval_batch_size
        rows = distributed.local_rows(self._over_devices, size)
        return evaluation_batches(self.data.validation, size, rows, self._validation_packer)

    @functools.cached_property
    def _validation_packer(self) -> packing.Packer | None:
        size, tissue = self.config.eval_batch_size, make_tissue(self.config)
        return packing.for_evaluation(tissue, self.data.validation, size, self.mesh.size)

    def _to_devices(self, batch: dict[str, Any]) -> Batch:
        # `index` names the slice in reports; no step reads it
        on_host = {name: value for name, value in batch.items() if name != "index"}
        return distributed.to_devices(on_host, self._over_devices)
