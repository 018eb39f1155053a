"""ViT-Base/16 with the two heads; section 3.3 of arXiv 2405.06814 names it with ViT-Large.

    python -m dtvit_jax.main --config configs/vit_b.py --config.data.source=SRC

B/32: --config.model.name=vit_b32 --config.init_from=torchvision/vit_b_32

Not yet trained; no result is claimed.
"""

import ml_collections

from configs import vit_l


def get_config() -> ml_collections.ConfigDict:
    """Returns vit_l.py's recipe with this encoder."""
    config = vit_l.get_config()
    config.model.name = "vit_b16"
    config.init_from = "torchvision/vit_b_16"
    return config
