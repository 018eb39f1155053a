"""Writes an answered study: its report, tables, DICOM objects and state."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from dtvit_jax.prediction.attribution import METHODS
from dtvit_jax.prediction.classifier import Classifier
from dtvit_jax.prediction.cleaned_image import is_image
from dtvit_jax.prediction.intake import StudyFiles
from dtvit_jax.prediction.records import (
    FILE_COLUMNS,
    AnsweredBy,
    FileRow,
    FinishedStudy,
    StudyResults,
    StudyState,
)
from dtvit_jax.prediction.study_folder import (
    FILES,
    REPORT,
    RESULTS,
    StudyFolders,
    csv_text,
    put,
    write_state,
)
from dtvit_jax.prediction.study_input import StudyInput
from dtvit_jax.prediction.study_page import study_page

FORM = 2
"""Version of the files written for a study: one answered in another form is answered again."""


class StudyOutput:
    """Writes and reads the studies of an OUT folder.

    Args:
      folders: the studies' folders.
      of: what answers depend on, apart from the files.
      classifier: returns the loaded model, for heat maps.
      dicom: folder for DICOM objects; None: none are written.
    """

    def __init__(
        self,
        folders: StudyFolders,
        of: AnsweredBy,
        classifier: Callable[[], Classifier],
        dicom: Path | None,
    ) -> None:
        self._folders, self._of, self._classifier, self._dicom = folders, of, classifier, dicom

    def images(self, key: str) -> Path:
        """The folder of a study's cleaned slices until it is written."""
        return self._folders.images(key)

    def is_done(self, study: StudyFiles) -> bool:
        """Whether the study was answered with the same `of`, and none of its files is new.

        Raises InputError where what an earlier run wrote of it is damaged.
        """
        state = self._folders.state(study.key)
        if state is None or state.of != self._of or not _instances(study) <= state.instances:
            return False
        self.read(study.key)
        return True

    def read(self, key: str) -> FinishedStudy:
        """Reads a study that is done. Raises InputError where its files are damaged."""
        objects = sorted((self._dicom / key).glob("[!.]*.dcm")) if self._dicom else []
        files = tuple(self._folders.files(key))
        return FinishedStudy(self._folders.results(key), files, tuple(objects), before=True)

    def write(
        self, study: StudyFiles, results: StudyResults, rows: list[FileRow], slices: StudyInput
    ) -> FinishedStudy:
        """Writes a study whole or not at all. Raises InputError where OUT can't be written."""
        keys = [facts.key for facts in slices.facts]
        pictures = dict(zip(keys, slices.pictures, strict=True))
        maps = {}
        if results.study and self._of.explain:
            from dtvit_jax.prediction.heat_maps import draw  # imports matplotlib

            stored = dict(zip(keys, slices.stored, strict=True))
            maps = draw(self._classifier(), results.study, stored, pictures, self._of.explain)
        objects = self._write_dicom(results, slices, maps)
        with self._folders.draft(study.key) as draft:
            put(draft / REPORT, study_page(results, rows, pictures, maps))
            put(draft / FILES, csv_text(FILE_COLUMNS, map(dataclasses.asdict, rows)))
            put(draft / RESULTS, json.dumps(dataclasses.asdict(results), indent=1) + "\n")
            write_state(draft, StudyState(self._of, _instances(study)))
        shutil.rmtree(self.images(study.key), ignore_errors=True)
        return FinishedStudy(results, tuple(rows), tuple(objects))

    def _write_dicom(
        self, results: StudyResults, slices: StudyInput, maps: Mapping[str, np.ndarray]
    ) -> list[Path]:
        """Writes the objects of a study that came as DICOM; of others removes earlier ones."""
        if self._dicom is None:
            return []
        sources = [Path(source.path) for source in slices.sources]
        if results.study is None or any(is_image(path) for path in sources):
            shutil.rmtree(self._dicom / results.key, ignore_errors=True)
            return []
        from dtvit_jax.dicom.write import write_dicom  # highdicom takes a second to import

        caption = f"{METHODS.get(self._of.explain, '')}, hemorrhage head"
        phantom = results.trained_on_phantoms
        objects, reason = write_dicom(
            self._dicom, results.study, sources, results.model, maps, caption, phantom
        )
        if reason:
            print(f"{results.key}: {reason}", file=sys.stderr)
        return objects


def _instances(study: StudyFiles) -> frozenset[tuple[str, int]]:
    """The images of a study's files and their sizes, by which new files are recognized."""
    return frozenset((source.instance, source.size) for source in study.files)
