"""Figures of reports: matplotlib without global state, written to reproducible files.

Text and axes have one colour, which becomes `currentColor` in SVG, so that a page shows the same
file in a light and a dark theme. Blue is the model, orange its errors.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from data_builder.records import CLASSES
from dtvit_jax.decision.predictions import Predictions

Bins = tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"], Int[np.ndarray, " b"]]
"""Mean p, share that came true and number of rows, by bin (`metrics.reliability_bins`)."""

INK = "#1c2024"
QUIET = "#878d94"
BLUE = "#4080c8"
ORANGE = "#d9772b"
_DASHED: Any = {"color": QUIET, "lw": 0.8, "ls": (0, (4, 3))}
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
}


@matplotlib.rc_context(_STYLE)
def training_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Plots loss and accuracy of both tasks over the epochs (the paper's Figure 5).

    history: records of "step", "epoch", "split" ('train', 'validation') and the losses and
    accuracies; any of them may be absent.
    """
    panels = (
        ("loss", "Loss"),
        ("accuracy_hemorrhage", "Accuracy, hemorrhage"),
        ("accuracy_location", "Accuracy, location"),
    )
    figure, axes = _figure(len(panels), width=8.4, height=2.5)
    for ax, (name, title) in zip(axes, panels, strict=True):
        for split, colour in (("train", QUIET), ("validation", BLUE)):
            rows = [r for r in history if r.get("split") == split and _finite(r.get(name))]
            x = [r.get("epoch", r.get("step", i)) for i, r in enumerate(rows)]
            mark = "o" if len(rows) < 40 else None
            label = {"train": "training"}.get(split, split)
            ax.plot(x, [r[name] for r in rows], color=colour, marker=mark, ms=2.5, label=label)
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if name == "loss":
            ax.set_ylim(bottom=0)
            ax.legend()
    return figure


@matplotlib.rc_context(_STYLE)
def confusion(
    matrix: Int[np.ndarray, "c c"], classes: Sequence[str], title: str, unit: str
) -> Figure:
    """Plots counts and row percentages, the truth in rows (the paper's Figure 6).

    unit: what is counted.
    """
    matrix = np.asarray(matrix)
    size = len(classes)
    figure, (ax,) = _figure(1, width=1.6 + 0.82 * size, height=2.7)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    for row, column in np.ndindex(size, size):
        count, share = matrix[row, column], shares[row, column]
        colour = QUIET if count == 0 else BLUE if row == column else ORANGE
        # Pale, so that the text of either theme is readable on it.
        cell = Rectangle((column - 0.48, row - 0.47), 0.96, 0.94, color=colour, lw=0)
        cell.set_alpha(0.08 + 0.42 * share)
        ax.add_patch(cell)
        ax.text(column, row - 0.08, f"{count}", ha="center", va="center", size=11)
        ax.text(column, row + 0.24, f"{share:.0%}", ha="center", va="center", size=7.5)
    ax.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
    totals = [f"{name}\n({count})" for name, count in zip(classes, matrix.sum(axis=1), strict=True)]
    ax.set_xticks(range(size), classes)
    ax.set_yticks(range(size), totals)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel=f"predicted, {unit}", ylabel="truth", title=title)
    return figure


@matplotlib.rc_context(_STYLE)
def roc(
    curves: Mapping[str, tuple[Float[np.ndarray, " g"], Float[np.ndarray, "3 g"]]],
) -> Figure:
    """Plots ROC curves, a panel each, from false positive rates and low, own, high sensitivity."""
    figure, axes = _figure(len(curves), width=2.15 * len(curves), height=2.5)
    for ax, (title, (grid, (low, middle, high))) in zip(axes, curves.items(), strict=True):
        _diagonal(ax, margin=0.02)
        ax.fill_between(grid, low, high, color=BLUE, alpha=0.2, lw=0)
        ax.plot(grid, middle, color=BLUE)
        ax.set(title=title, xlabel="1 - specificity", ylabel="sensitivity")
    return figure


@matplotlib.rc_context(_STYLE)
def subject_scores(subjects: Predictions, threshold: float) -> Figure:
    """Plots a dot per subject: its score, by true class; errors in orange."""
    figure, (ax,) = _figure(1, width=8.4, height=2.5)
    strata = np.where(subjects.hemorrhage == 1, subjects.location + 1, 0)
    for row, name in enumerate(CLASSES):
        members = np.flatnonzero((strata == row) & (subjects.hemorrhage == (row > 0)))
        score = subjects.p_hemorrhage[members]
        wrong = (score >= threshold) != (row > 0)
        offset = _spread(score, 0.012)
        for mask, colour in ((~wrong, BLUE), (wrong, ORANGE)):
            ax.scatter(
                score[mask], row + offset[mask], s=16, color=colour, alpha=0.9, lw=0, clip_on=False
            )
        label = f"{name} ({len(members)})"
        ax.text(-0.03, row, label, ha="right", va="center", transform=ax.get_yaxis_transform())
    ax.axvline(threshold, **_DASHED)
    ax.set(xlim=(-0.01, 1.01), ylim=(len(CLASSES) - 0.5, -0.5))
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("subject score: ICH is predicted from the dashed line on")
    return figure


@matplotlib.rc_context(_STYLE)
def reliability(bins: Mapping[str, Bins], share: str) -> Figure:
    """Plots the share that came true against mean p, a panel each; area is proportional to rows.

    share: label of the y axis.
    """
    figure, axes = _figure(len(bins), width=2.15 * len(bins), height=2.5)
    for ax, (title, (mean, came_true, count)) in zip(axes, bins.items(), strict=True):
        _diagonal(ax, margin=0.04)
        ax.plot(mean, came_true, color=BLUE, lw=1)
        area = 8 + 70 * np.asarray(count) / max(np.max(count, initial=1), 1)
        ax.scatter(mean, came_true, s=area, color=BLUE, alpha=0.6, lw=0)
        ax.set(title=title, xlabel="mean p of the bin", ylabel=share)
    return figure


def _diagonal(ax: Axes, margin: float) -> None:
    """Makes the panel a unit square with a margin, and plots its dashed diagonal."""
    ax.plot([0, 1], [0, 1], **_DASHED)
    ax.set(xlim=(-margin, 1 + margin), ylim=(-margin, 1 + margin), aspect="equal")


@matplotlib.rc_context(_STYLE)
def forest(
    rows: Sequence[str],
    panels: Mapping[str, Sequence[tuple[float, float, float] | None]],
    centre: float | None,
) -> Figure:
    """Plots values with their intervals: a row per model or pair, a panel per metric.

    panels: (low, value, high) of each row; None where there is no value. centre: the position of a
    vertical line.
    """
    figure, axes = _figure(len(panels), width=8.4, height=0.9 + 0.3 * len(rows))
    for first, (ax, (title, entries)) in enumerate(zip(axes, panels.items(), strict=True)):
        if centre is not None:
            ax.axvline(centre, **_DASHED)
        for row, entry in enumerate(entries):
            if entry is not None:
                low, value, high = entry
                ax.plot([low, high], [row, row], color=BLUE, lw=1.4, solid_capstyle="butt")
                ax.plot([value], [row], color=BLUE, marker="s", ms=4)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_yticks(range(len(rows)), rows if first == 0 else [""] * len(rows))
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
        ax.set_title(title)
        ax.spines["left"].set_visible(False)
    return figure


def svg(figure: Figure, name: str) -> str:
    """Renders an SVG element for a page: no prolog, no date, ids that start with `name`."""
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # A page holds several figures: numbered ids, to which nothing refers, would occur twice.
    text = re.sub(r' id="[a-z]+[A-Za-z0-9]*_\d+"', "", text)
    text = re.sub(r'(?<=\bid=")|(?<=url\(#)|(?<=href="#)', f"{name}-", text)
    text = re.sub(r"font: ([\d.]+)px '[^']*'(?:, [^;\"]*)?", r"font-size: \1px", text)
    return re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL).rstrip() + "\n"


def save(figures: Mapping[str, Figure], folder: Path) -> dict[str, Markup]:
    """Writes NAME.svg and NAME.png (on white, 200 dots per inch) of each; returns the SVGs."""
    texts = {}
    for name, figure in figures.items():
        texts[name] = Markup(svg(figure, name))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.svg").write_text(texts[name], encoding="utf-8")
        with matplotlib.rc_context(_STYLE):
            figure.savefig(folder / f"{name}.png", dpi=200, metadata={"Software": None})
    return texts


def _figure(panels: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, panels, 1 + i) for i in range(panels)]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _spread(score: Float[np.ndarray, " n"], near: float) -> Float[np.ndarray, " n"]:
    """Offsets that separate dots of nearly equal scores: 0, 1, -1, 2, ... steps from the row."""
    offset = np.zeros(len(score))
    bins = np.round(score / near).astype(int)
    for value in np.unique(bins):
        members = np.flatnonzero(bins == value)
        rank = np.arange(len(members))
        steps = np.where(rank % 2 == 1, (rank + 1) // 2, -(rank // 2))
        offset[members] = steps * min(0.16, 0.8 / max(len(members), 1))
    return offset
