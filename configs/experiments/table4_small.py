"""The paper's Tables 3 and 4 on two CPU cores: small images, few steps, random initial weights.

    python -m dtvit_jax.experiment --config configs/experiments/table4_small.py \
        --config.source=SRC --out experiments/table4_small

Not a replication, since no weights are pretrained. docs/experiments.md has the result on 1,184 real
slices. The CNNs are ResNet18, SqueezeNet and DenseNet121: VGG16 has not been run at this size, and
AlexNet needs 63 pixels.
"""

import ml_collections

from configs import phantom
from configs.experiments import table4

SMALL = {
    "data__size": 64,
    "model__image_size": 56,
    "windows": phantom.get_config().windows,
    "init_from": "scratch",
    "num_epochs": 0,
    "num_steps": 40,  # of 32 slices: 0.8 epochs of a fold, balanced
    "eval_every_epochs": 1.0,
    "batch_size": 32,
    "eval_batch_size": 64,
    "learning_rate": 3e-4,
    "schedule": "cosine",
    "warmup": 0.05,
    "clip_norm": 1.0,
}
# ViTs are trained for six times as many steps.
SMALL_VIT = SMALL | {"learning_rate": 1e-3, "num_steps": 240, "eval_every_epochs": 2.0}


def get_config() -> ml_collections.ConfigDict:
    """Returns table4.py's grid at a small size, and Table 3's row without balancing."""
    config = table4.get_config()
    config.title = "Tables 3 and 4, small"
    config.rows = rows = ml_collections.ConfigDict()
    rows["DTViT nano"] = table4.row("real_small", **SMALL_VIT)
    rows["DTViT nano, not balanced"] = table4.row(
        "real_small", **SMALL_VIT | {"data__balance": "none"}
    )
    rows["ResNet18"] = table4.row("resnet18", **SMALL)
    rows["SqueezeNet"] = table4.row("squeezenet", **SMALL)
    rows["DenseNet121"] = table4.row("densenet121", **SMALL)
    return config
