"""What the CNNs of the paper's Table 4 have in common: section 4.4, same heads and optimiser."""

import ml_collections

from configs import vit_l


def recipe(name: str) -> ml_collections.ConfigDict:
    """vit_l.py's recipe with torchvision's CNN called `name`, from ImageNet-1K."""
    config = vit_l.get_config()
    config.init_from = f"torchvision/{name}"
    shared = ("image_size", "channels", "head", "head_dropout", "location_classes")
    kept = {field: config.model[field] for field in shared}
    config.model = ml_collections.ConfigDict({"name": name, **kept})
    return config
