"""Studies through the model: workers read and clean, the model answers, a folder is written."""

import collections
import contextlib
import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_builder.dicom.header import Reason
from data_builder.parallel.processes import InOrder, Lost
from data_builder.progress import track
from data_builder.pseudonyms import Lookup, Pseudonyms
from dtvit_jax.decision.answer import ModelIdentity, StudyAnswer
from dtvit_jax.decision.study import Points, answer_study, own_scale
from dtvit_jax.prediction import tables
from dtvit_jax.prediction.attribution import METHODS
from dtvit_jax.prediction.classifier import Answers, Classifier
from dtvit_jax.prediction.cleaned_image import is_image
from dtvit_jax.prediction.intake import OWN_WORDS, Found, Prepare, Prepared, StudyFiles, prepare
from dtvit_jax.prediction.study_folder import (
    FILE_COLUMNS,
    FILES,
    REPORT,
    RESULTS,
    Finished,
    StudyFolders,
    answer_of,
    csv_text,
    put,
    write_state,
)
from dtvit_jax.prediction.study_input import NO_HEAD, Gathered, Row, file_row, result_of
from dtvit_jax.prediction.study_page import study_page
from dtvit_jax.runs.evaluated_run import ModelFolder

FORM = 1
"""Of what is written of a study: one answered in another form is answered again."""

MIXED = "mixed patients"
SECONDS_A_FILE = 60.0


@dataclasses.dataclass(frozen=True)
class Options:
    """How studies are answered.

    Attributes:
      points: the operating point.
      jobs: worker processes.
      key: of pseudonyms.
      dicom: folder for DICOM objects; None: none are made.
      explain: method of heat maps, of `relevance.METHODS`; empty: none are drawn.
    """

    points: Points
    jobs: int
    key: bytes
    dicom: Path | None
    explain: str


class Predictor:
    """A model over the studies of an OUT folder.

    classifier: called when the first study needs it, so that weights are read while files are.
    """

    def __init__(
        self,
        model: ModelFolder,
        folders: StudyFolders,
        options: Options,
        classifier: Callable[[], Classifier],
        lookup: Lookup | None = None,
    ) -> None:
        self._model, self._folders, self._options = model, folders, options
        self._make, self._lookup = classifier, lookup
        self._ready: Classifier | None = None
        self._pseudonyms = Pseudonyms(options.key)
        self._of = json.loads(
            json.dumps(
                {
                    "form": FORM,
                    "checkpoint_step": model.origin.checkpoint_step,
                    "rule": _digest(model.rule.raw),
                    "point": options.points.name,
                    "explain": options.explain,
                }
            )
        )

    def done(self, study: StudyFiles) -> bool:
        """Whether this very model has answered the study, and none of its files is new."""
        state = self._folders.state(study.key)
        known = {tuple(each) for each in state.get("instances", ())}
        return state.get("of") == self._of and set(_instances(study)) <= known

    def answer(self, studies: Sequence[StudyFiles]) -> Iterator[Finished]:
        """Answers each study, in order; each is on disk when it is given out.

        A study that is done is given out as it is. Raises InputError where OUT can't be written.
        """
        new = {study.key for study in studies if not self.done(study)}
        tasks = [
            self._task(study.key, found)
            for study in studies
            if study.key in new and len(study.subjects) == 1
            for found in study.files
        ]
        with contextlib.closing(InOrder(tasks, prepare, self._options.jobs, _patience)) as stream:
            prepared = track(stream, len(tasks), "answering, files") if tasks else iter(())
            for study in studies:
                if study.key not in new:
                    yield self._before(study)
                elif len(study.subjects) > 1:
                    yield self._refuse(study)
                else:
                    yield self._study(study, prepared)
            collections.deque(prepared, maxlen=0)  # lets the progress end

    def refuse(self, strays: Sequence[Found]) -> list[Row]:
        """Rows of files.csv for files that name no study."""
        rows, tasks = [], []
        for found in strays:
            if Path(found.path).name in OWN_WORDS:
                rows.append(file_row(found, "own words", 0, "", "no scan: a file of data_builder"))
            else:
                tasks.append(self._task("none", found))
        with contextlib.closing(InOrder(tasks, prepare, self._options.jobs, _patience)) as stream:
            for task, prepared in stream:
                result = result_of(task, prepared)
                self._remember(result.meanings)
                row = result.refused or {
                    "reason": str(Reason.IMPOSSIBLE_HEADER),
                    "detail": "it names no study",
                }
                rows.append(file_row(task.found, "refused", 0, row["reason"], row["detail"]))
        return rows

    def _task(self, key: str, found: Found) -> Prepare:
        cleaning, size = self._model.cleaning, int(self._model.config.data.size)
        out = self._folders.images(key)
        mode, image_format = cleaning.mode, cleaning.image_format
        return Prepare(found, str(out), mode, image_format, size, self._options.key)

    def _before(self, study: StudyFiles) -> Finished:
        told = self._folders.results(study.key)
        paths = {found.instance: Path(found.path) for found in study.files}
        used = self._folders.state(study.key)["sources"]
        return Finished(
            key=study.key,
            answer=answer_of(told),
            refusal=told["refusal"],
            folder=self._folders.root / study.key,
            sources=tuple(paths[instance] for instance in used if instance in paths),
            objects=self._objects_before(study.key),
            files=tuple(self._folders.files(study.key)),
            before=True,
        )

    def _objects_before(self, key: str) -> tuple[Path, ...]:
        folder = self._options.dicom
        return tuple(sorted((folder / key).glob("*.dcm"))) if folder else ()

    def _refuse(self, study: StudyFiles) -> Finished:
        people = len(study.subjects)
        detail = f"one study of {people} patients"
        rows = [file_row(found, "refused", 0, MIXED, detail) for found in study.files]
        refusal = f"its files name {people} patients: a study is of one; sort them out"
        return self._write(study, None, refusal, rows, Gathered(), {"scale": {}, "notes": []})

    def _study(
        self, study: StudyFiles, stream: Iterator[tuple[Prepare, Prepared | Lost]]
    ) -> Finished:
        gathered, answers = Gathered(), Answers(self._classifier())
        for _ in study.files:
            for image in gathered.add(*next(stream)):
                answers.add(image)
        p_hemorrhage, p_location = answers.finish()
        self._remember(pair for result in gathered.results for pair in result.meanings)
        rows, notes = gathered.accounts(study, self._pseudonyms)
        answer, refusal, scale = None, "", {}
        if gathered.facts:
            scale = own_scale(gathered.facts, p_hemorrhage, self._model.rule, self._options.points)
            answer = answer_study(
                study.key,
                study.subjects[0],
                gathered.facts,
                p_hemorrhage,
                p_location,
                self._model.training_slices.scores(np.stack(gathered.features)),
                self._model.rule,
                self._options.points,
            )
        elif any(row["reason"] == NO_HEAD for row in rows):
            refusal = "no slice of it shows a head"
        else:
            refusal = "none of its files is a CT slice that can be used: files.csv says why"
        about = {"scale": scale, "notes": notes}
        return self._write(study, answer, refusal, rows, gathered, about)

    def _write(
        self,
        study: StudyFiles,
        answer: StudyAnswer | None,
        refusal: str,
        rows: list[Row],
        gathered: Gathered,
        about: dict[str, Any],
    ) -> Finished:
        about = about | {
            "model": dataclasses.asdict(self.identity()),
            "trained_on_phantoms": self._model.phantom,
            "cleaning": dataclasses.asdict(self._model.cleaning),
        }
        told = tables.study_results(study.key, answer, refusal, about)
        keys = [facts.key for facts in gathered.facts]
        pictures = dict(zip(keys, gathered.pictures, strict=True))
        maps = {}
        if answer and self._options.explain:
            from dtvit_jax.prediction.heat_maps import draw  # matplotlib's colours

            stored = dict(zip(keys, gathered.stored, strict=True))
            maps = draw(self._classifier(), answer, stored, pictures, self._options.explain)
        objects = self._dicom(study, answer, gathered, maps)
        with self._folders.draft(study.key) as draft:
            put(draft / REPORT, study_page(told, answer, rows, pictures, maps))
            put(draft / FILES, csv_text(FILE_COLUMNS, rows))
            put(draft / RESULTS, json.dumps(told, indent=1) + "\n")
            sources = [found.instance for found in gathered.sources]
            state = {"of": self._of, "instances": _instances(study), "sources": sources}
            write_state(draft, state)
        shutil.rmtree(self._folders.images(study.key), ignore_errors=True)
        return Finished(
            key=study.key,
            answer=answer,
            refusal=refusal,
            folder=self._folders.root / study.key,
            sources=tuple(Path(found.path) for found in gathered.sources),
            objects=tuple(objects),
            files=tuple(rows),
        )

    def _dicom(
        self,
        study: StudyFiles,
        answer: StudyAnswer | None,
        gathered: Gathered,
        maps: Mapping[str, np.ndarray],
    ) -> list[Path]:
        """Writes the study's DICOM objects, if it came as DICOM; those of an earlier answer go."""
        folder = self._options.dicom
        if folder is None:
            return []
        sources = [Path(found.path) for found in gathered.sources]
        if answer is None or any(is_image(path) for path in sources):
            shutil.rmtree(folder / study.key, ignore_errors=True)
            return []
        from dtvit_jax.dicom.write import write_dicom  # highdicom takes a second to import

        caption = f"{METHODS.get(self._options.explain, '')}, hemorrhage head"
        model, phantom = self.identity(), self._model.phantom
        objects, without = write_dicom(folder, answer, sources, model, maps, caption, phantom)
        if without:
            print(f"{study.key}: {without}", file=sys.stderr)
        return objects

    def _classifier(self) -> Classifier:
        self._ready = self._ready or self._make()
        return self._ready

    def identity(self) -> ModelIdentity:
        """Which model answers."""
        return self._model.identity(self._classifier().weights_sha256)

    def _remember(self, meanings: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> None:
        if self._lookup:
            self._lookup.add(meanings)


def _instances(study: StudyFiles) -> list[tuple[str, int]]:
    """What tells the study's files from new ones: the images they hold and their sizes."""
    return sorted({(found.instance, found.size) for found in study.files})


def _patience(task: Prepare) -> float:
    return SECONDS_A_FILE + max(task.found.size, 0) / 1e6


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
