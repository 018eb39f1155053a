"""The paper's Table 3: DTViT with and without balancing (replication of the rarer classes).

    python -m dtvit_jax.experiment --config configs/experiments/table3.py \
        --config.source=SRC --out experiments/table3

Not yet run; no result is claimed.
"""

import ml_collections

from configs.experiments import table4


def get_config() -> ml_collections.ConfigDict:
    """Returns table4.py's grid with the two rows of Table 3."""
    config = table4.get_config()
    config.title = "Table 3: DTViT with and without balancing"
    config.rows = rows = ml_collections.ConfigDict()
    rows["with balancing"] = table4.row("vit_l")
    rows["without balancing"] = table4.row("vit_l", data__balance="none", batch_size=8)  # 4.1
    return config
