"""Writes an answered study: its report, tables, DICOM objects and state."""

import collections
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from data_builder.pseudonyms import Pseudonyms
from dtvit_jax.prediction.attribution import METHODS
from dtvit_jax.prediction.classifier import Classifier
from dtvit_jax.prediction.cleaned_image import is_image
from dtvit_jax.prediction.intake import InputFile, StudyFiles, content_of
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
      dicom: folder for DICOM objects, which `of.dicom` wants or not.
      pseudonyms: under the site's key.
    """

    def __init__(
        self,
        folders: StudyFolders,
        of: AnsweredBy,
        classifier: Callable[[], Classifier],
        dicom: Path,
        pseudonyms: Pseudonyms,
    ) -> None:
        self._folders, self._of, self._classifier = folders, of, classifier
        self._dicom, self._pseudonyms = dicom, pseudonyms

    def images(self, key: str) -> Path:
        """The folder of a study's cleaned slices until it is written."""
        return self._folders.images(key)

    def is_done(self, study: StudyFiles) -> bool:
        """Whether the study was answered with the same `of`, over the same content as now.

        An answer with DICOM objects does for one without. What was written has to be there. The
        files are read where the state of the study names the same images. Raises InputError where
        what an earlier run wrote of it is damaged.
        """
        state = self._folders.state(study.key)
        if state is None or self._of not in (state.of, dataclasses.replace(state.of, dicom=False)):
            return False
        objects = state.objects if self._of.dicom else ()
        if not self._folders.is_whole(study.key) or not all(
            (self._dicom / study.key / name).is_file() for name in objects
        ):
            return False
        if {name for name, *_ in state.instances} != {file.instance for file in study.files}:
            return False
        if state.instances != _instances(study, self._contents(study.files)):
            return False
        self.read(study.key)
        return True

    def read(self, key: str) -> FinishedStudy:
        """Reads a study that is done. Raises InputError where its files are damaged."""
        objects = sorted((self._dicom / key).glob("[!.]*.dcm")) if self._of.dicom else []
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
        contents = {result.file: result.content for result in slices.results}
        contents |= self._contents(file for file in study.files if file.file not in contents)
        with self._folders.draft(study.key) as draft:
            put(draft / REPORT, study_page(results, rows, pictures, maps))
            put(draft / FILES, csv_text(FILE_COLUMNS, map(dataclasses.asdict, rows)))
            put(draft / RESULTS, json.dumps(dataclasses.asdict(results), indent=1) + "\n")
            names = tuple(path.name for path in objects)
            write_state(draft, StudyState(self._of, _instances(study, contents), names))
        shutil.rmtree(self.images(study.key), ignore_errors=True)
        return FinishedStudy(results, tuple(rows), tuple(objects))

    def _write_dicom(
        self, results: StudyResults, slices: StudyInput, maps: Mapping[str, np.ndarray]
    ) -> list[Path]:
        """Writes the objects of a study that came as DICOM; of others removes earlier ones.

        Objects that are not wanted are removed too: they would contradict the new answer.
        """
        sources = [Path(source.path) for source in slices.sources]
        if not self._of.dicom or results.study is None or any(is_image(path) for path in sources):
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

    def _contents(self, files: Iterable[InputFile]) -> dict[str, str]:
        """`content_of` each file, by the pseudonym of its path."""
        sources = list(files)
        with ThreadPoolExecutor() as threads:  # hashing releases Python's lock
            paths = (Path(source.path) for source in sources)
            found = threads.map(lambda path: content_of(path, self._pseudonyms), paths)
            return dict(zip((source.file for source in sources), found, strict=True))


def _instances(study: StudyFiles, contents: Mapping[str, str]) -> frozenset[tuple[str, ...]]:
    """The images of a study's files and their contents, as in `StudyState`."""
    of_instance: dict[str, dict[str, None]] = collections.defaultdict(dict)
    for source in study.files:
        of_instance[source.instance][contents[source.file]] = None
    return frozenset((instance, *found) for instance, found in of_instance.items())
