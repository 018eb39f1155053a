"""What workers made of one study's files: slices for the model, and each file's account."""

import collections
import dataclasses
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

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
from dtvit_jax.prediction.intake import Found, Prepare, Prepared, StudyFiles

NO_HEAD = "no head"

Row = dict[str, Any]


@dataclasses.dataclass
class Gathered:
    """The slices of a study with a head, each at the same place in every list; its files.

    pictures: the cleaned slice at its own resolution. sources: the files that slices come from,
    which `SliceFacts.file` counts.
    """

    facts: list[SliceFacts] = dataclasses.field(default_factory=list)
    stored: list[UInt8[np.ndarray, "side side"]] = dataclasses.field(default_factory=list)
    features: list[np.ndarray] = dataclasses.field(default_factory=list)
    pictures: list[Path] = dataclasses.field(default_factory=list)
    sources: list[Found] = dataclasses.field(default_factory=list)
    results: list[FileResult] = dataclasses.field(default_factory=list)
    _keys: set[str] = dataclasses.field(default_factory=set)

    def add(
        self, task: Prepare, prepared: Prepared | processes.Lost
    ) -> Iterator[UInt8[np.ndarray, "side side"]]:
        """Takes the next file in; gives out its slices with a head, unless it is a duplicate."""
        result = result_of(task, prepared)
        self.results.append(result)
        keys = {row.key for row in result.rows}
        if isinstance(prepared, processes.Lost) or keys & self._keys:
            return
        self._keys |= keys
        slices = zip(result.rows, prepared.stored, prepared.features, strict=True)
        heads = [each for each in slices if each[0].head]
        if heads:
            self.sources.append(task.found)
        for row, stored, features in heads:
            place = row.position if row.position_mm else None
            frame = row.frame - 1 if row.frame else None
            self.facts.append(SliceFacts(row.key, len(self.sources) - 1, frame, place))
            self.stored.append(stored)
            self.features.append(features)
            self.pictures.append(Path(task.out) / task.found.file / row.image)
            yield stored

    def accounts(self, study: StudyFiles, pseudonyms: Pseudonyms) -> tuple[list[Row], list[Row]]:
        """A row of files.csv for each file of the study, and notes on gaps and doubles."""
        paths = {one.file: PurePosixPath(one.path) for one in study.files}
        tables = assemble(self.results, paths, Labels([], pseudonyms), pseudonyms)
        reasons = {row["file"]: row for row in tables.refused}
        of_file = collections.defaultdict(list)
        for labelled in tables.manifest:
            of_file[labelled.file].append(labelled)
        rows = []
        for one in study.files:
            own = of_file[one.file]
            if one.file in reasons:
                row = reasons[one.file]
                rows.append(file_row(one, "refused", 0, row["reason"], row["detail"]))
            elif heads := sum(labelled.head for labelled in own):
                detail = f"{len(own) - heads} without a head" if heads < len(own) else ""
                rows.append(file_row(one, "used", heads, "", detail))
            else:
                detail = "it shows none, or nothing that could be told from the holder"
                rows.append(file_row(one, "refused", 0, NO_HEAD, detail))
        return rows, [
            {"position_mm": note["position_mm"], "note": note["note"]} for note in tables.notes
        ]


def result_of(task: Prepare, prepared: Prepared | processes.Lost) -> FileResult:
    """The file's result, of a lost one too. Raises InputError where the output can't be written."""
    if isinstance(prepared, processes.Lost):
        detail = f"its decoder {prepared.cause} and was stopped"
        refusal = Refusal(Reason.DECODER_FAILED, detail)
        result = refused(task.found.file, task.found.size, refusal)
        result.meanings.append((task.found.file, task.found.path))
        return result
    if prepared.result.failure:
        raise InputError(
            f"--out can't be written ({prepared.result.failure}): mend it, and the same command "
            "goes on"
        )
    return prepared.result


def file_row(found: Found, use: str, slices: int, reason: str, detail: str) -> Row:
    """A row of files.csv."""
    return {
        "file": found.file,
        "study": found.study,
        "use": use,
        "slices": slices,
        "reason": reason,
        "detail": detail,
    }
