"""A small dual-task ViT on synthetic heads (phantoms): the whole chain in minutes on a CPU.

    ./launch.sh

Result of 2026-11-24 (`benchmarks/phantom.py`: three seeds of subjects, split and initial weights;
40 held-out phantom subjects each, 8 for each location; 95% intervals over subjects):

    seed 0    ICH AUROC 1.000 (0.895 to 1)        location macro recall 0.917 (0.708 to 1)
    seed 1    ICH AUROC 0.995 (0.933 to 1)        location macro recall 0.917 (0.708 to 1)
    seed 2    ICH AUROC 0.995 (0.937 to 1)        location macro recall 0.917 (0.708 to 1)

The chain took 4 min 29 s to 6 min 16 s on 2 CPU cores that other programs used too.

Three windows as channels: with the whole gray range in each channel and nothing else changed (seed
0), training accuracy of the hemorrhage task was 0.63 after 4.8 epochs, against 0.89.

Phantom results say nothing about patients.
"""

import ml_collections

from configs import vit_l


def get_config() -> ml_collections.ConfigDict:
    """Returns vit_l.py's recipe with a model and a schedule for a CPU, from random weights."""
    config = vit_l.get_config()
    config.init_from = "scratch"
    config.data.key = "public"  # phantoms are no persons; other data are refused under it
    config.data.size = 128
    config.data.folds = 3  # a third of the subjects is the test side
    config.model.name = "vit_nano8"
    config.model.image_size = 112
    # [0, 80] HU; about 45 to 65 HU, blood against brain; about 62 to 80 HU, bone against blood.
    config.windows = ((0, 255), (144, 208), (198, 255))
    config.mean = config.std = (0.5, 0.5, 0.5)
    config.augment.rotation = 10.0
    config.augment.sharpness_probability = 0.0  # it would double the simulated scanner's noise
    config.augment.flip_probability = 0.5
    config.augment.zoom = 0.05
    config.augment.shift = 0.05
    config.batch_size = 16
    config.eval_batch_size = 64
    config.num_epochs = 12
    config.learning_rate = 1e-3
    config.schedule = "cosine"
    config.warmup = 0.05
    config.weight_decay = 0.05
    config.clip_norm = 1.0
    return config
