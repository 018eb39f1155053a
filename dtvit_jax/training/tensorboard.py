"""Writes TensorBoard's files through tensorboardX, in the loop's own thread.

tensorboardX's SummaryWriter has a thread of its own, which a full disk would stop unnoticed.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from jaxtyping import Float
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

MOST_IMAGES = 16


class TensorBoard:
    """Scalars, images and text of a run, under `folder`.

    Each process of a run writes a file of its own. It begins with a mark that makes TensorBoard
    drop what earlier files hold of later steps, so that no step is shown twice.

    Args:
      folder: for the event files; made if need be.
      first: steps that were done before this process.
      written: False where another process of the run writes.
    """

    def __init__(self, folder: Path, first: int, written: bool = True) -> None:
        self._file: EventsWriter | None = None
        if not written:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(folder / "events"), f".{first}.{time.time_ns()}")
        if first:
            self._write(Event(step=first + 1, session_log=SessionLog(status=SessionLog.START)))

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *error: object) -> None:
        if self._file:
            self._file.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes each of `values` at `step`."""
        for name, value in values.items():
            self._write(Event(step=step, summary=summary.scalar(name, float(value))))

    def text(self, name: str, text: str) -> None:
        """Writes text in a fixed-width font."""
        indented = "".join(f"    {line}\n" for line in text.splitlines())  # Markdown's code
        self._write(Event(step=0, summary=summary.text(name, indented)))

    def parameters(self, params: Any) -> None:
        """Writes an overview of parameters: names, shapes and sizes; `params` may be shapes."""
        table = parameter_overview.get_parameter_overview(params, include_stats=False)
        self.text("parameters", table)

    def images(
        self, name: str, images: Float[np.ndarray, "batch rows columns channels"] | jax.Array
    ) -> None:
        """Writes up to 16 model inputs as one picture, each channel stretched to its own range."""
        shown = np.asarray(images, np.float32)[:MOST_IMAGES]
        low, high = shown.min((0, 1, 2)), shown.max((0, 1, 2))
        shown = (shown - low) / np.maximum(high - low, 1e-6)
        side = int(np.ceil(len(shown) ** 0.5))
        n, rows, columns, channels = shown.shape
        sheet = np.zeros((side * side, rows, columns, 3), np.float32)
        sheet[:n] = shown if channels == 3 else shown[..., :1]
        sheet = sheet.reshape(side, side, rows, columns, 3).swapaxes(1, 2)
        sheet = sheet.reshape(side * rows, side * columns, 3)
        self._write(Event(step=0, summary=summary.image(name, sheet, dataformats="HWC")))

    def flush(self) -> None:
        """Writes everything to the file."""
        if self._file:
            self._file.flush()

    def _write(self, event: Event) -> None:
        if not self._file:
            return
        event.wall_time = time.time()
        self._file.write_event(event)
