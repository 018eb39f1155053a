"""A trained run: its best checkpoint, and the probabilities that it predicts for a split."""

import functools
from pathlib import Path

import jax
import numpy as np

from configs import vit_l
from data_builder.errors import InputError
from data_builder.progress import track
from data_builder.shards import places
from dtvit_jax.data import packing
from dtvit_jax.data.loader import evaluation_batches
from dtvit_jax.data.shards import Shards, find_shards, name_of
from dtvit_jax.decision.predictions import Predictions
from dtvit_jax.models.variables import Tree, Variables
from dtvit_jax.runtime import prepare
from dtvit_jax.training import record
from dtvit_jax.training.checkpoint import Checkpoints
from dtvit_jax.training.network import Network, make_tissue
from dtvit_jax.training.setup import abstract_state, make_setup
from dtvit_jax.training.sharding import make_mesh, placed_on
from dtvit_jax.training.steps import evaluate_step
from dtvit_jax.weights import files
from dtvit_jax.weights.files import Weights
from dtvit_jax.weights.load import OPTIONS, flatten


class TrainedRun:
    """A run's config, record, history and best checkpoint.

    Args:
        workdir: the run's folder.
        data_dir: where the data set is; empty: where this user's last run on it found it, else
            in the folder data.

    Raises InputError where the folder holds no finished run; `shards`, where the data set is
    missing.
    """

    def __init__(self, workdir: Path, data_dir: str = "") -> None:
        prepare()
        self.config = record.read_config(workdir)
        self.record = record.read_record(workdir)
        if data_dir:
            self.config.data.dir = data_dir
        self.history = record.read_history(workdir)
        self._checkpoints = Checkpoints(workdir, self.config.best, read_only=True)
        self.step = self._checkpoints.best

    @property
    def checksum(self) -> str:
        """`Checkpoints.model_checksum` of the best checkpoint. Raises InputError."""
        return self._checkpoints.model_checksum(self.step)

    @functools.cached_property
    def shards(self) -> Shards:
        """The data set that the run was trained on, identified by its digest."""
        data, digest = self.config.data, self.record["dataset"]["digest"]
        if not data.dir:
            data.dir = str(places.recall(name_of(data, digest)) or vit_l.get_config().data.dir)
        return find_shards(data, digest)

    def model(self) -> tuple[Network, Tree, Tree]:
        """The network, and the best checkpoint's parameters and batch statistics, on the devices.

        With config.ema_decay they are the exponential moving averages.
        """
        setup = make_setup(self.config, steps=1)  # the shapes do not depend on the number of steps
        placed = placed_on(make_mesh({"data": -1, "fsdp": 1}), abstract_state(setup))
        params, stats = self._checkpoints.restore_model(self.step, placed)
        return setup.network, params, stats

    def weights(self) -> Variables:
        """The parameters and batch statistics of `model`, as NumPy arrays."""
        return self._checkpoints.restore_model(self.step)

    def predict(self, split: str) -> Predictions:
        """The best checkpoint's probabilities of every slice of 'train', 'validation' or 'test'."""
        source = self.shards.source(split)
        network, params, stats = self.model()
        evaluate_fn = jax.jit(functools.partial(evaluate_step, network=network))
        size = self.config.eval_batch_size
        packer = packing.for_evaluation(make_tissue(self.config), source, size, devices=1)
        batches = evaluation_batches(source, size, packer=packer)
        columns: list[tuple[np.ndarray, ...]] = []
        for batch in track(batches, -(-len(source) // size), f"evaluating, {split}"):
            index, mask = batch.pop("index"), batch["mask"]
            _, p_hemorrhage, p_location = evaluate_fn(params, stats, batch)
            values = (index, batch["hemorrhage"], batch["location"], p_hemorrhage, p_location)
            columns.append(tuple(np.asarray(value)[mask] for value in values))
        index, hemorrhage, location, p_hemorrhage, p_location = map(
            np.concatenate, zip(*columns, strict=True)
        )
        slices = [source.describe(int(i)) for i in index]
        return Predictions(
            key=np.array([row["key"] for row in slices]),
            subject=np.array([row["subject"] for row in slices]),
            hemorrhage=hemorrhage.astype(int),
            location=location.astype(int),
            p_hemorrhage=p_hemorrhage,
            p_location=p_location,
            split=np.full(len(index), split),
            study=np.array([row["study"] for row in slices]),
            fold=np.full(len(index), self.config.data.fold if self.config.data.folds else -1),
        )


def open_weights(path: Path) -> Weights:
    """Reads weights from a file, or those of the best checkpoint of the run in a folder.

    A run's weights have this package's own names, and its config's options as their header.

    Raises:
        InputError: `path` is neither, or is damaged.
    """
    if not path.is_dir():
        return files.read(path)
    if not (path / "checkpoints").is_dir():
        raise InputError(
            f"{path}: a folder, but of no run (it has no checkpoints); give a run's workdir or "
            "a .safetensors, .npz or .pth file"
        )
    config = record.read_config(path)
    checkpoints = Checkpoints(path, config.best, read_only=True)
    params, stats = checkpoints.restore_model(checkpoints.best)
    arrays = flatten(params) | flatten(stats)
    options = {name: str(config.model[name]) for name in OPTIONS if name in config.model}
    return Weights(path, arrays, options)
