"""ViT-Small/16 with the two heads: not in the paper; for smaller machines and quicker trials.

    python -m dtvit_jax.main --config configs/vit_s.py --config.data.source=SRC

Not trained yet: no result is claimed.
"""

import ml_collections

from configs import vit_l


def get_config() -> ml_collections.ConfigDict:
    """vit_l.py's recipe with this encoder, from timm's AugReg weights."""
    config = vit_l.get_config()
    config.model.name = "vit_s16"
    config.init_from = "timm/vit_small_patch16_224.augreg_in21k_ft_in1k"
    config.mean, config.std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # as timm has it for these weights
    return config
