"""Opens what a run trains on and is validated on, and counts its steps."""

import dataclasses

import ml_collections

from dtvit_jax.data.examples import TrainingExamples
from dtvit_jax.data.shards import Shards, SliceSource, open_shards
from dtvit_jax.training import distributed
from dtvit_jax.training.config_checks import check_batch
from dtvit_jax.training.setup import make_augmentation
from dtvit_jax.training.validation import check_best


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The two sides of a data set that training reads.

    Attributes:
      shards: the data set, with its metadata.
      examples: training examples of all epochs, one endless sequence; each with augmentation
        parameters, which the step applies.
      validation: validation slices.
      epoch_steps: steps an epoch; the last one may be shared with the next epoch.
      steps: of the whole run.
    """

    shards: Shards
    examples: TrainingExamples
    validation: SliceSource
    epoch_steps: float
    steps: int


def open_data(config: ml_collections.ConfigDict, devices: int) -> TrainingData:
    """Opens the shards that config.data names; builds them first where it names a source.

    Raises InputError where there are none, or where the batch or config.best do not suit them.
    """
    augmentation = make_augmentation(config)
    distributed.check_source(config.data.source)
    shards = open_shards(config.data)
    source, validation = shards.source("train"), shards.source("validation")
    examples = TrainingExamples(source, config.data.balance, augmentation, config.seed)
    check_best(validation.strata, config.best)
    epoch_steps = examples.epoch_length / config.batch_size
    steps = config.num_steps or int(config.num_epochs * epoch_steps)
    check_batch(config, devices, examples.epoch_length, steps)
    return TrainingData(shards, examples, validation, epoch_steps, steps)
