import ast
import importlib
import re

import pytest

from dtvit_jax.models import NAMES
from dtvit_jax.training.config_checks import check_config
from dtvit_jax.training.setup import abstract_state, make_augmentation, make_task
from dtvit_jax.weights import hub
from tests.helpers import ROOT

RECIPES = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py"))


def fields(config, prefix=""):
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def read_by_code():
    """Names that dtvit_jax's code reads as attributes or subscripts, or passes on by **."""
    names = set()
    for path in (ROOT / "dtvit_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
            if isinstance(node, ast.arg):
                names.add(node.arg)
    return names


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_field_is_read_and_every_recipe_is_whole(recipe):
    config = importlib.import_module(f"configs.{recipe}").get_config()
    known = read_by_code()
    unread = [name for name in fields(config) if name.split(".")[-1] not in known]
    assert unread == []
    check_config(config)
    make_augmentation(config)
    task = make_task(config, steps=10)
    abstract = abstract_state(task)
    assert abstract.params


def test_every_model_has_a_recipe_and_every_recipe_a_published_file():
    configs = [importlib.import_module(f"configs.{name}").get_config() for name in RECIPES]
    own = {"vit_nano", "vit_micro"}  # for tests and small runs: there are no published weights

    def kinds(names):  # a ViT's patch size is an option
        return {re.sub(r"^(vit_[a-z]+)\d+", r"\1", name) for name in names} - own

    assert kinds(NAMES) == kinds(config.model.name for config in configs)
    for config in configs:
        published = config.init_from == "scratch" or hub.published(config.init_from)
        assert published, config.init_from


def test_the_papers_recipe_is_the_papers():
    """Section 4.1, Table 2, Eq. 5 of arXiv 2405.06814."""
    from configs import vit_l

    config = vit_l.get_config()
    assert (config.learning_rate, config.weight_decay) == (2e-5, 0.01)
    assert (config.batch_size, config.num_epochs) == (32, 10)
    assert (config.loss.hemorrhage, config.loss.location) == (0.5, 0.5)
    assert (config.augment.rotation, config.augment.sharpness) == (15, 2)
    task = make_task(config, steps=1)
    abstract = abstract_state(task)
    import jax

    encoder = sum(x.size for x in jax.tree.leaves(abstract.params["encoder"]))
    assert encoder == 303_301_632
