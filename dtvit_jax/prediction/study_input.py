"""Collects one study's slices for the model from the workers' results, and a row for each file."""

import collections
import dataclasses
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from data_builder.cleaning.clean_file import FileResult, refused
from data_builder.cleaning.labels import Labels
from data_builder.cleaning.tables import assemble
from data_builder.dicom.header import Reason, Refusal
from data_builder.errors import InputError
from data_builder.parallel import processes
from data_builder.pseudonyms import Pseudonyms
from dtvit_jax.decision.study import SliceFacts
from dtvit_jax.prediction.intake import InputFile, Prepared, PrepareTask, StudyFiles
from dtvit_jax.prediction.records import FileRow

NO_HEAD = "no head"


@dataclasses.dataclass
class StudyInput:
    """The slices of a study that show a head, as parallel lists, and the results of its files.

    Attributes:
      facts: of each slice before the model sees it; its file is an index of `sources`.
      stored: each slice at the size of the shards.
      features: `outlier.features` of each slice.
      pictures: the cleaned slice at its own resolution.
      sources: the files that the slices come from.
      results: of all files of the study.
    """

    facts: list[SliceFacts] = dataclasses.field(default_factory=list)
    stored: list[UInt8[np.ndarray, "side side"]] = dataclasses.field(default_factory=list)
    features: list[np.ndarray] = dataclasses.field(default_factory=list)
    pictures: list[Path] = dataclasses.field(default_factory=list)
    sources: list[InputFile] = dataclasses.field(default_factory=list)
    results: list[FileResult] = dataclasses.field(default_factory=list)
    _keys: set[str] = dataclasses.field(default_factory=set)

    def add(
        self, task: PrepareTask, prepared: Prepared | processes.Lost
    ) -> Iterator[UInt8[np.ndarray, "side side"]]:
        """Adds the next file; yields its slices with a head, none where it is a duplicate.

        Raises InputError where the output can't be written.
        """
        result = result_of(task, prepared)
        self.results.append(result)
        keys = {row.key for row in result.rows}
        if isinstance(prepared, processes.Lost) or keys & self._keys:
            return
        self._keys |= keys
        slices = zip(result.rows, prepared.stored, prepared.features, strict=True)
        heads = [each for each in slices if each[0].head]
        if heads:
            self.sources.append(task.source)
        for row, stored, features in heads:
            position = row.position if row.position_mm else None
            frame = row.frame - 1 if row.frame else None
            file, phantom = len(self.sources) - 1, bool(row.phantom)
            self.facts.append(SliceFacts(row.key, file, frame, position, phantom))
            self.stored.append(stored)
            self.features.append(features)
            self.pictures.append(Path(task.out) / task.source.file / row.image)
            yield stored

    def file_rows(
        self, study: StudyFiles, pseudonyms: Pseudonyms
    ) -> tuple[list[FileRow], list[dict[str, str]]]:
        """A row of files.csv for each file of the study, and notes on gaps and doubles."""
        paths = {source.file: PurePosixPath(source.path) for source in study.files}
        tables = assemble(self.results, paths, Labels([], pseudonyms), pseudonyms)
        refusals = {row["file"]: row for row in tables.refused}
        slices = collections.defaultdict(list)
        for labelled in tables.manifest:
            slices[labelled.file].append(labelled)
        rows = []
        for source in study.files:
            own = slices[source.file]
            if source.file in refusals:
                refusal = refusals[source.file]
                rows.append(FileRow.refused(source, refusal["reason"], refusal["detail"]))
            elif heads := sum(labelled.head for labelled in own):
                detail = f"{len(own) - heads} without a head" if heads < len(own) else ""
                rows.append(FileRow.used(source, heads, detail))
            else:
                detail = "it shows none, or none that could be separated from the holder"
                rows.append(FileRow.refused(source, NO_HEAD, detail))
        notes = [{name: note[name] for name in ("position_mm", "note")} for note in tables.notes]
        return rows, notes


def result_of(task: PrepareTask, prepared: Prepared | processes.Lost) -> FileResult:
    """The file's result; a refusal where its worker was lost.

    Raises InputError where the output can't be written.
    """
    if isinstance(prepared, processes.Lost):
        detail = f"its decoder {prepared.cause} and was stopped"
        refusal = Refusal(Reason.DECODER_FAILED, detail)
        result = refused(task.source.file, task.source.size, refusal)
        result.meanings.append((task.source.file, task.source.path))
        return result
    if prepared.result.failure:
        raise InputError(
            f"--out can't be written ({prepared.result.failure}): mend it, and the same command "
            "goes on"
        )
    return prepared.result
