"""The smallest run there is, for tests: phantom.py's recipe at 32 pixels."""

from pathlib import Path

import ml_collections

from configs import phantom


def get_config(data_dir: Path | str = "") -> ml_collections.ConfigDict:
    config = phantom.get_config()
    config.data.dir = str(data_dir)
    config.data.size = 36
    config.data.folds = 0
    config.model.name = "vit_nano8"
    config.model.image_size = 32
    config.model.channels = 1
    config.batch_size = 8
    config.eval_batch_size = 8
    config.num_epochs = 10
    config.eval_every_epochs = 5.0
    config.learning_rate = 3e-3
    return config
