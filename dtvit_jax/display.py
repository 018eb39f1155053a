"""What a run shows of itself: at its start, and after each validation."""

import json
from typing import Any

import jax
import ml_collections
import numpy as np

from dtvit_jax import run_record
from dtvit_jax.console import TrainingProgress
from dtvit_jax.input_pipeline import TrainingExamples
from dtvit_jax.steps import Task, TrainState
from dtvit_jax.tensorboard import MOST_IMAGES, TensorBoard
from dtvit_jax.validation_metrics import in_words


def describe(
    board: TensorBoard,
    config: ml_collections.ConfigDict,
    task: Task,
    abstract: TrainState,
    examples: TrainingExamples,
) -> None:
    """Shows in TensorBoard the config, the parameters, and the first augmented slices."""
    board.text("config", json.dumps(run_record.public_config(config), indent=1))
    board.parameters(abstract.params)
    rows = [examples[i] for i in range(min(config.batch_size, MOST_IMAGES))]
    images, drawn = (np.stack([row[name] for row in rows]) for name in ("image", "augmentation"))
    board.images("augmented", jax.jit(task.transform)(images, drawn))


def show(
    history: list[dict[str, Any]], epoch: float, board: TensorBoard, bar: TrainingProgress
) -> None:
    """Writes the last validation, and the training since the one before, where people look."""
    last = [r for r in history[-2:] if r["step"] == history[-1]["step"]]
    for r in last:
        values = {f"{r['split']}/{k}": v for k, v in r.items() if k not in ("step", "split")}
        board.scalars(r["step"], values)
    bar.tell(f"epoch {epoch:g}: {in_words(last)}")
