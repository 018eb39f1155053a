"""Recipes: every field is read by a run, every model and every published file is known."""

import importlib
import re
import sys

import jax
import pytest
from ml_collections import ConfigDict

from dtvit_jax import evaluate, models
from dtvit_jax.models import NAMES
from dtvit_jax.train import train
from dtvit_jax.training.config_checks import check_config
from dtvit_jax.training.setup import abstract_state, make_augmentation, make_setup
from dtvit_jax.weights import hub
from tests.helpers import ROOT, tiny
from tests.helpers.run_folder import save_run

RECIPES = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py"))
NOT_USES = ("dtvit_jax.training.config_checks", "dtvit_jax.training.record")
"""Modules that check a config's values, or write them down: what they read has no effect yet."""


def recipe(name):
    return importlib.import_module(f"configs.{name}").get_config()


def fields(config, prefix=""):
    """Dotted names of all fields of a config."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name


@pytest.fixture
def reads(monkeypatch):
    """Dotted names of the fields that dtvit_jax reads of any config while the test runs.

    A field of config.model is read when `models.create` is given it. Neither whole copies
    (`to_dict`, `to_json_best_effort`) nor NOT_USES count.
    """
    names: set[str] = set()
    prefix_of: dict[int, tuple[str, ConfigDict]] = {}  # with the config, so that no id comes again
    getitem, create = ConfigDict.__getitem__, models.create

    def caller():
        """Name of the module that reads, above this and ConfigDict's own ways to get one field."""
        frame = sys._getframe(2)
        while frame.f_code.co_name in ("__getattr__", "get", "recording"):
            frame = frame.f_back
        return frame.f_globals["__name__"]

    def recording(config, key):
        value = getitem(config, key)
        prefix = "" if "batch_size" in config else prefix_of.get(id(config), ("?.", config))[0]
        if isinstance(value, ConfigDict):
            prefix_of[id(value)] = (f"{prefix}{key}.", value)
        elif (module := caller()).startswith("dtvit_jax.") and module not in NOT_USES:
            names.add(f"{prefix}{key}")
        return value

    def creating(name, **options):
        names.update(f"model.{option}" for option in ("name", *options))
        return create(name, **options)

    monkeypatch.setattr(ConfigDict, "__getitem__", recording)
    monkeypatch.setattr(models, "create", creating)
    return names


def test_a_run_and_its_evaluation_read_every_field(published, tmp_path, reads):
    """Of a ViT on tissue, from the weights of another run; the data are built from their source."""
    config = tiny.get_config(tmp_path / "data")
    config.data.source, config.data.key = str(published), "public"
    config.num_epochs, config.eval_every_epochs = 1, 1.0
    config.model.tokens, config.model.dropout = "tissue", 0.1
    save_run(tmp_path / "first", config.model.to_dict())
    config.init_from, config.init_heads = str(tmp_path / "first"), True
    reads.clear()
    assert train(config, tmp_path / "run", "a command") == 0
    assert evaluate.main(["--workdir", str(tmp_path / "run")]) == 0
    assert set(fields(recipe("vit_l"))) - reads == set()


@pytest.mark.parametrize("name", ["augment.zoom", "log_every_steps", "model.gelu", "best"])
def test_a_copied_printed_or_checked_field_is_not_read(reads, name):
    config = tiny.get_config()
    config.to_dict(), config.to_json_best_effort()
    check_config(config)
    assert name not in reads


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_whole_and_its_model_takes_every_option(name, reads):
    config = recipe(name)
    own = {field for field in fields(config) if not field.startswith("model.")}
    assert own <= set(fields(recipe("vit_l")))
    check_config(config)
    make_augmentation(config)
    setup = make_setup(config, steps=10)
    abstract = abstract_state(setup)
    assert abstract.params
    assert set(fields(config.model, "model.")) - reads == set()


def test_every_model_has_a_recipe_and_every_recipe_a_published_file():
    configs = [recipe(name) for name in RECIPES]
    own = {"vit_nano", "vit_micro"}  # for tests and small runs: there are no published weights

    def kinds(names):  # a ViT's patch size is an option
        return {re.sub(r"^(vit_[a-z]+)\d+", r"\1", name) for name in names} - own

    assert kinds(NAMES) == kinds(config.model.name for config in configs)
    for config in configs:
        published = config.init_from == "scratch" or hub.published(config.init_from)
        assert published, config.init_from


def test_the_papers_recipe_is_the_papers():
    """Section 4.1, Table 2, Eq. 5 of arXiv 2405.06814."""
    config = recipe("vit_l")
    assert (config.learning_rate, config.weight_decay) == (2e-5, 0.01)
    assert (config.batch_size, config.num_epochs) == (32, 10)
    assert (config.loss.hemorrhage, config.loss.location) == (0.5, 0.5)
    assert (config.augment.rotation, config.augment.sharpness) == (15, 2)
    abstract = abstract_state(make_setup(config, steps=1))
    encoder = sum(x.size for x in jax.tree.leaves(abstract.params["encoder"]))
    assert encoder == 303_301_632
