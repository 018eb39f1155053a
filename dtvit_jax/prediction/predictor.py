"""Answers studies: workers read and clean their files, and the model answers while they do."""

import collections
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_builder.dicom.header import Reason
from data_builder.errors import InputError
from data_builder.parallel.processes import Lost
from data_builder.progress import track
from data_builder.pseudonyms import Lookup, Pseudonyms
from dtvit_jax.decision.answer import StudyAnswer
from dtvit_jax.decision.study import Points, answer_study, own_scale
from dtvit_jax.prediction.classifier import Classifier, SliceProbabilities
from dtvit_jax.prediction.intake import (
    BUILDER_FILES,
    InputFile,
    Prepared,
    PrepareTask,
    StudyFiles,
    prepare_all,
)
from dtvit_jax.prediction.records import FileRow, FinishedStudy, StudyResults
from dtvit_jax.prediction.study_input import NO_HEAD, StudyInput, result_of
from dtvit_jax.prediction.study_output import StudyOutput
from dtvit_jax.runs.evaluated_run import ModelFolder


class Predictor:
    """Answers studies with one model at one operating point.

    Args:
      model: the run that answers.
      points: the operating point.
      output: the folders that answers are written to.
      classifier: returns the loaded model, the same at every call; the first call is made when a
        study needs it, so that weights load while files are read.
      key: secret key of the pseudonyms.
      jobs: number of worker processes.
      lookup: receives the meanings of the pseudonyms; None: they are not kept.
    """

    def __init__(
        self,
        model: ModelFolder,
        points: Points,
        output: StudyOutput,
        classifier: Callable[[], Classifier],
        key: bytes,
        jobs: int,
        lookup: Lookup | None,
    ) -> None:
        self._model, self._points, self._output = model, points, output
        self._classifier, self._key, self._jobs, self._lookup = classifier, key, jobs, lookup
        self._pseudonyms = Pseudonyms(key)

    def answer(self, studies: Sequence[StudyFiles]) -> Iterator[FinishedStudy]:
        """Answers each study, in order; a study is on disk when it is yielded.

        A study that is done is read from disk; a damaged one is answered again, with a line on
        standard error. Raises InputError where OUT can't be written.
        """
        new = {study.key for study in studies if not self._is_done(study)}
        tasks = [
            self._task(study.key, source)
            for study in studies
            if study.key in new and len(study.subjects) == 1
            for source in study.files
        ]
        with contextlib.closing(prepare_all(tasks, self._jobs)) as stream:
            prepared = track(stream, len(tasks), "answering, files") if tasks else iter(())
            for study in studies:
                if study.key not in new:
                    yield self._output.read(study.key)
                elif len(study.subjects) > 1:
                    yield self._refuse_mixed(study)
                else:
                    yield self._answer_study(study, prepared)
            collections.deque(prepared, maxlen=0)  # the progress line ends with the last item

    def refuse(self, strays: Sequence[InputFile]) -> list[FileRow]:
        """Reads files that name no study and returns their rows of files.csv, with reasons."""
        rows, tasks = [], []
        for source in strays:
            if Path(source.path).name in BUILDER_FILES:
                detail = "no scan: a file of data_builder"
                rows.append(FileRow(source.file, source.study, "own words", 0, "", detail))
            else:
                tasks.append(self._task("none", source))
        with contextlib.closing(prepare_all(tasks, self._jobs)) as stream:
            for task, prepared in stream:
                result = result_of(task, prepared)
                self._remember(result.meanings)
                refusal = result.refused or {
                    "reason": str(Reason.IMPOSSIBLE_HEADER),
                    "detail": "it names no study",
                }
                rows.append(FileRow.refused(task.source, refusal["reason"], refusal["detail"]))
        return rows

    def _is_done(self, study: StudyFiles) -> bool:
        try:
            return self._output.is_done(study)
        except InputError as error:
            print(f"{error}: the study is answered again", file=sys.stderr, flush=True)
            return False

    def _task(self, key: str, source: InputFile) -> PrepareTask:
        cleaning, size = self._model.cleaning, int(self._model.config.data.size)
        out = str(self._output.images(key))
        return PrepareTask(source, out, cleaning.mode, cleaning.image_format, size, self._key)

    def _refuse_mixed(self, study: StudyFiles) -> FinishedStudy:
        people = len(study.subjects)
        detail = f"one study of {people} patients"
        rows = [
            FileRow.refused(source, str(Reason.MIXED_PATIENTS), detail) for source in study.files
        ]
        refusal = f"its files name {people} patients: a study is of one; sort them out"
        return self._output.write(study, self._results(study.key, refusal), rows, StudyInput())

    def _answer_study(
        self, study: StudyFiles, stream: Iterator[tuple[PrepareTask, Prepared | Lost]]
    ) -> FinishedStudy:
        slices, probabilities = StudyInput(), SliceProbabilities(self._classifier())
        for _ in study.files:
            for image in slices.add(*next(stream)):
                probabilities.add(image)
        p_hemorrhage, p_location = probabilities.finish()
        self._remember(pair for result in slices.results for pair in result.meanings)
        rows, notes = slices.file_rows(study, self._pseudonyms)
        if slices.facts:
            rule, points = self._model.rule, self._points
            outliers = self._model.training_slices.scores(np.stack(slices.features))
            answer = answer_study(
                study.key,
                study.subjects[0],
                slices.facts,
                p_hemorrhage,
                p_location,
                outliers,
                rule,
                points,
                trained_on_phantoms=self._model.phantom,
            )
            scale = {}
            if answer.p_hemorrhage is not None:
                usual = np.flatnonzero(outliers <= 1)
                facts = [slices.facts[i] for i in usual]
                scale = own_scale(facts, p_hemorrhage[usual], rule, points)
            results = self._results(study.key, "", answer, scale, notes)
        elif any(row.reason == NO_HEAD for row in rows):
            results = self._results(study.key, "no slice of it shows a head", notes=notes)
        else:
            refusal = (
                "none of its files is a CT slice that can be used: files.csv gives the reasons"
            )
            results = self._results(study.key, refusal, notes=notes)
        return self._output.write(study, results, rows, slices)

    def _results(
        self,
        key: str,
        refusal: str,
        answer: StudyAnswer | None = None,
        scale: Mapping[str, float] | None = None,
        notes: Sequence[dict[str, str]] = (),
    ) -> StudyResults:
        return StudyResults(
            key=key,
            refusal=refusal,
            study=answer,
            scale=dict(scale or {}),
            notes=list(notes),
            model=self._model.identity(self._classifier().weights_sha256),
            trained_on_phantoms=self._model.phantom,
            cleaning=self._model.cleaning,
            calibration=self._model.rule.in_force()["subject"],
        )

    def _remember(self, meanings: Iterable[tuple[str, str]]) -> None:
        if self._lookup:
            self._lookup.add(meanings)
