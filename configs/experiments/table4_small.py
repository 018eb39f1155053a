"""Table 4 at a size for two CPU cores: small images, few epochs, from random weights.

    python -m dtvit_jax.experiment --config configs/experiments/table4_small.py \
        --config.source=SRC --out experiments/table4_small

From random weights; not a replication. Not run yet on real slices; no result is claimed.
"""

import ml_collections

from configs.experiments import table4

SMALL = {
    "data__size": 112,
    "model__image_size": 96,
    "model__channels": 1,
    "mean": (0.5,),
    "std": (0.5,),
    "init_from": "scratch",
    "num_epochs": 3,
    "batch_size": 16,
    "eval_batch_size": 64,
    "learning_rate": 3e-4,
    "schedule": "cosine",
    "warmup": 0.05,
    "clip_norm": 1.0,
}


def get_config() -> ml_collections.ConfigDict:
    """table4.py's grid with one small setting for all."""
    config = table4.get_config()
    config.title = "Table 4, small"
    config.rows = rows = ml_collections.ConfigDict()
    rows["DTViT nano"] = table4.row("real_small", **SMALL)
    rows["ResNet18"] = table4.row("resnet18", **SMALL)
    rows["AlexNet"] = table4.row("alexnet", **SMALL)
    rows["SqueezeNet"] = table4.row("squeezenet", **SMALL)
    return config
