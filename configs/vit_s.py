"""ViT-Small/16 with the two heads, for smaller machines and faster trials; not in the paper.

    python -m dtvit_jax.main --config configs/vit_s.py --config.data.source=SRC

Not yet trained; no result is claimed.
"""

import ml_collections

from configs import vit_l


def get_config() -> ml_collections.ConfigDict:
    """Returns vit_l.py's recipe with this encoder, from timm's AugReg weights."""
    config = vit_l.get_config()
    config.model.name = "vit_s16"
    config.init_from = "timm/vit_small_patch16_224.augreg_in21k_ft_in1k"
    config.mean, config.std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # timm's values for these weights
    return config
