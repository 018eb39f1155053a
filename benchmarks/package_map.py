"""Draws docs/images/packages.svg: the packages in their layers, and which imports which.

    python -m benchmarks.package_map

The imports are read from the source files, also those inside functions. `tests/test_layers.py`
holds the one-way rule with the same LAYERS and `edges`, and that the picture has today's imports.
"""

import ast
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs/images/packages.svg"

LAYERS = {
    "data_builder": (
        ("errors", "progress", "records"),
        ("files",),
        ("pseudonyms",),
        ("parallel", "dicom"),
        ("cleaning", "phantom"),
        ("shards",),
        ("review",),
        ("__main__",),
    ),
    "dtvit_jax": (
        ("command_line", "models", "runtime", "decision"),
        ("data", "weights", "evaluation", "dicom", "pacs"),
        ("training", "reports"),
        ("planning", "runs"),
        ("experiments", "prediction"),
        ("train",),
        ("plan", "experiment", "main", "convert", "evaluate", "export", "compare", "predict"),
    ),
}
"""Packages and single modules; each may import those of earlier lines only."""

Edges = dict[str, set[str]]


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


def modules() -> dict[str, Path]:
    """The file of every module of the two top packages."""

    def name_of(path: Path) -> str:
        parts = path.relative_to(ROOT).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    return {name_of(path): path for top in LAYERS for path in sorted((ROOT / top).rglob("*.py"))}


def edges() -> Edges:
    """Each module, and the modules of this repository that it imports."""
    files = modules()

    def existing(name: str) -> str:
        while name not in files:  # a class or function: its module
            name = name.rpartition(".")[0]
        return name

    return {
        module: {existing(n) for n in imported(path) if n.split(".")[0] in LAYERS} - {module}
        for module, path in files.items()
    }


def package_edges(imports: Edges) -> set[tuple[str, str]]:
    """Pairs (importing, imported) of two names of LAYERS, such as dtvit_jax.data."""

    def package(module: str) -> str:
        return ".".join(module.split(".")[:2])

    pairs = {(package(a), package(b)) for a, targets in imports.items() for b in targets}
    return {(a, b) for a, b in pairs if a != b and "." in a and "." in b}


def in_picture() -> set[tuple[str, str]]:
    """The pairs of `package_edges` that the picture was drawn of."""
    text = re.search(r"<dc:description>(.*?)</dc:description>", PICTURE.read_text(), re.S)
    assert text is not None
    pairs = (pair.split(" imports ") for pair in text[1].split("; "))
    return {(a.strip(), b.strip()) for a, b in pairs}


def implied(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Pairs whose second the first imports through a third as well."""
    below: Edges = {name: set() for pair in pairs for name in pair}
    for a, b in pairs:
        below[a].add(b)
    reached: Edges = {}
    for name in TopologicalSorter(below).static_order():
        reached[name] = below[name].union(*(reached[other] for other in below[name]))
    return {(a, b) for a, b in pairs if any(b in reached[c] for c in below[a] if c != b)}


WIDTH, HEIGHT, STEP_X, STEP_Y = 1.25, 0.36, 1.36, 0.95
SHIFTS = {"data_builder": (0, -6, -2, -6, 4, 3, 4, 6), "dtvit_jax": (-1, 6, 0, -6, 4, -3, 0)}
"""Quarters of a column by which each layer is moved so that few arrows cross a box."""


def places() -> dict[str, tuple[float, float]]:
    """Centre of each box: the first layer lowest; data_builder at the left."""
    at = {}
    left = 0.0
    for top, layers in LAYERS.items():
        width = max(map(len, layers)) * STEP_X
        for row, (layer, shift) in enumerate(zip(layers, SHIFTS[top], strict=True)):
            for column, name in enumerate(layer):
                x = (column + 0.5) / len(layer) * width + shift * STEP_X / 4
                at[f"{top}.{name}"] = (left + x, row * STEP_Y)
        left += width + 1.6
    return at


def draw(pairs: set[tuple[str, str]]) -> None:
    """Writes the picture: the same bytes for the same pairs."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    at = places()
    figure = Figure(figsize=(14, 6.8))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    faint = implied(pairs)
    for a, b in sorted(pairs):
        if a.split(".")[0] != b.split(".")[0]:
            continue
        (x1, y1), (x2, y2) = at[a], at[b]
        light = (a, b) in faint
        axes.add_patch(
            FancyArrowPatch(
                (x1, y1 - HEIGHT / 2),
                (x2, y2 + HEIGHT / 2 + 0.02),
                arrowstyle="-|>",
                mutation_scale=7 if light else 10,
                linewidth=0.6 if light else 1.2,
                color="#c9ced6" if light else "#33415c",
                shrinkA=0,
                shrinkB=0,
                zorder=1 if light else 2,
            )
        )
    shared = {b for a, b in pairs if a.startswith("dtvit_jax.") and b.startswith("data_builder.")}
    for name, (x, y) in at.items():
        axes.add_patch(
            FancyBboxPatch(
                (x - WIDTH / 2, y - HEIGHT / 2),
                WIDTH,
                HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.08",
                facecolor="#fdf1d8" if name in shared else "#e8eef9",
                edgecolor="#b5761f" if name in shared else "#33415c",
                linewidth=1.0,
                zorder=3,
            )
        )
        axes.text(x, y, name.split(".")[1], ha="center", va="center", fontsize=8.5, zorder=4)
    for top in LAYERS:
        xs = [x for name, (x, _) in at.items() if name.startswith(f"{top}.")]
        height = max(y for _, y in at.values()) + 0.55
        axes.text((min(xs) + max(xs)) / 2, height, top, ha="center", fontsize=13, weight="bold")
    axes.text(
        min(x for x, _ in at.values()) - WIDTH / 2,
        -0.6,
        "An arrow: imports. Light: what a dark path of arrows says already. "
        "Orange: what dtvit_jax imports of data_builder.",
        fontsize=9,
    )
    xs, ys = zip(*at.values(), strict=True)
    axes.set_xlim(min(xs) - 0.8, max(xs) + 0.8)
    axes.set_ylim(-0.75, max(ys) + 0.9)
    axes.axis("off")
    description = "; ".join(f"{a} imports {b}" for a, b in sorted(pairs))
    with matplotlib.rc_context({"svg.hashsalt": "packages", "svg.fonttype": "none"}):
        figure.savefig(PICTURE, format="svg", metadata={"Date": None, "Description": description})


if __name__ == "__main__":
    draw(package_edges(edges()))
    sys.exit(0)
