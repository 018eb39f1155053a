"""The paper's Table 4 on both splits, and VGG16, which its authors ran but left out.

    python -m dtvit_jax.experiment --config configs/experiments/table4.py \
        --config.source=SRC --out experiments/table4

Each model starts from ImageNet weights, by its own recipe. 6 models, 2 splits, 5 folds: 60 runs,
days on one GPU. Not yet run; no result is claimed. table4_small.py is the version for a CPU.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the config of an experiment with every field; other grids change some values."""
    config = ml_collections.ConfigDict()
    config.title = "Table 4: DTViT and CNNs"
    config.source = ""  # as config.data.source of a run
    config.key = ""  # as config.data.key
    config.data_dir = "data"  # as config.data.dir
    config.splits = ("slice", "subject")  # the paper's, and the one without shared subjects
    config.folds = 5
    config.seeds = (0,)
    config.baseline = True  # the gray histogram and logistic regression on the same folds
    config.rows = rows = ml_collections.ConfigDict()  # name: recipe and changed fields
    rows["DTViT"] = row("vit_l")
    rows["ResNet18"] = row("resnet18")
    rows["AlexNet"] = row("alexnet")
    rows["SqueezeNet"] = row("squeezenet")
    rows["DenseNet121"] = row("densenet121")
    rows["VGG16"] = row("vgg16")
    return config


def row(recipe: str, **fields: object) -> ml_collections.ConfigDict:
    """Returns a row: configs/RECIPE.py (or a path) with changed fields, '__' for '.' in names."""
    changed = {name.replace("__", "."): value for name, value in fields.items()}
    return ml_collections.ConfigDict({"recipe": recipe, "fields": list(changed.items())})
