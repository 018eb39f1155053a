"""Shares the recipe of the CNNs of the paper's Table 4: same heads and optimiser (section 4.4)."""

import ml_collections

from configs import vit_l


def recipe(name: str) -> ml_collections.ConfigDict:
    """Returns vit_l.py's recipe with a CNN of torchvision, from its ImageNet-1K weights."""
    config = vit_l.get_config()
    config.init_from = f"torchvision/{name}"
    shared = ("image_size", "channels", "head", "head_dropout", "location_classes")
    kept = {field: config.model[field] for field in shared}
    config.model = ml_collections.ConfigDict({"name": name, **kept})
    return config
