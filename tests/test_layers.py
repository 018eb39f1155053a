"""The one-way rule of docs/architecture.md: a package imports packages of earlier lines only."""

import re
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from benchmarks.package_map import LAYERS, edges, in_picture, modules, package_edges
from tests.helpers import ROOT

LAYER = {
    (top, name): number
    for top, layers in LAYERS.items()
    for number, layer in enumerate(layers)
    for name in layer
}
WITHOUT_JAX = ("decision", "evaluation", "reports")


MODULES = modules()


def broken_rules(imports: dict[str, set[str]]) -> list[str]:
    broken = []
    for module, targets in imports.items():
        top, _, rest = module.partition(".")
        package = rest.split(".")[0]
        for target in targets:
            other_top, _, other_rest = target.partition(".")
            other = other_rest.split(".")[0]
            if other_top != top:
                if top == "data_builder":
                    broken.append(f"{module} imports {target}")
            elif other and other != package and LAYER[top, other] >= LAYER[top, package]:
                broken.append(f"{module} imports {target}")
    return broken


def test_a_package_imports_earlier_layers_only():
    assert broken_rules(edges()) == []


@pytest.mark.parametrize(
    "module, target",
    [
        ("data_builder.cleaning.clean", "dtvit_jax.runtime"),
        ("dtvit_jax.models.vit", "dtvit_jax.data.crop"),
        ("dtvit_jax.training.steps", "dtvit_jax.reports.report"),
    ],
)
def test_the_rule_notices_an_import_upwards(module, target):
    assert broken_rules({module: {target}}) == [f"{module} imports {target}"]


def test_every_module_has_a_layer():
    names = {tuple(module.split(".")[:2]) for module in MODULES if "." in module}
    assert names == set(LAYER)


def test_the_picture_of_the_packages_has_todays_imports():
    """Otherwise `python -m benchmarks.package_map` draws it again."""
    assert in_picture() == package_edges(edges())


def test_no_python_module_imports_itself_in_a_circle():
    assert set(TopologicalSorter(edges()).static_order()) == set(MODULES)


def test_no_javascript_file_imports_itself_in_a_circle():
    folder = ROOT / "data_builder/review/static"
    scripts = {path.name: path.read_text() for path in folder.glob("*.js")}
    imports = {
        name: set(re.findall(r"""(?:from|import)\s+["']\./([\w.]+)["']""", text))
        for name, text in scripts.items()
    }
    assert sum(map(len, imports.values())) > 5  # the pattern sees imports
    assert set(TopologicalSorter(imports).static_order()) == set(scripts)


def test_statistics_need_no_jax():
    """In a process of its own, with all that these modules import in turn."""
    modules = [m for m in MODULES if m.split(".")[1:2] and m.split(".")[1] in WITHOUT_JAX]
    program = f"import {', '.join(modules)}, sys; sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
