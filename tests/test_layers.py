"""The one-way rule of docs/architecture.md: a package imports packages of earlier lines only."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.helpers import ROOT

LAYERS = {
    "data_builder": (
        ("errors", "records", "progress"),
        ("files",),
        ("pseudonyms",),
        ("dicom", "parallel"),
        ("cleaning", "phantom"),
        ("shards",),
        ("review",),
        ("__main__",),
    ),
    "dtvit_jax": (
        ("runtime", "command_line", "models", "decision"),
        ("data", "evaluation", "weights", "dicom", "pacs"),
        ("training", "reports"),
        ("runs", "planning"),
        ("prediction", "experiments"),
        ("train",),
        ("main", "evaluate", "predict", "compare", "experiment", "convert", "export", "plan"),
    ),
}
LAYER = {
    (top, name): number
    for top, layers in LAYERS.items()
    for number, layer in enumerate(layers)
    for name in layer
}
WITHOUT_JAX = ("decision", "evaluation", "reports")


def imported(path: Path) -> set[str]:
    """Dotted names that a Python file imports, those inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(p): p for top in LAYERS for p in sorted((ROOT / top).rglob("*.py"))}


def existing(name: str) -> str:
    """The module that an imported name is, or is defined in."""
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def edges() -> dict[str, set[str]]:
    """Each module, and the modules of this repository that it imports."""
    return {
        module: {existing(n) for n in imported(path) if n.split(".")[0] in LAYERS} - {module}
        for module, path in MODULES.items()
    }


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
