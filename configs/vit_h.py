"""ViT-Huge/14 with the two heads; section 3.3 of arXiv 2405.06814 names it with ViT-Large.

    python -m dtvit_jax.main --config configs/vit_h.py --config.data.source=SRC

Not yet trained; no result is claimed.
"""

import ml_collections

from configs import vit_l


def get_config() -> ml_collections.ConfigDict:
    """Returns vit_l.py's recipe with this encoder."""
    config = vit_l.get_config()
    config.model.name = "vit_h14"
    config.init_from = "torchvision/vit_h_14_swag_linear"  # its 224-pixel weights
    return config
