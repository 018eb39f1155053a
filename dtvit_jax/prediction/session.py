"""Answers studies into one OUT folder: opens the model, locks the folder, prints and tabulates."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax

from data_builder.errors import InputError
from data_builder.files import lock
from data_builder.parallel.processes import Lost
from data_builder.pseudonyms import (
    PUBLIC_KEY,
    Lookup,
    Pseudonyms,
    lookup_path,
    public_key_refused,
)
from dtvit_jax.decision.rule import DecisionRule
from dtvit_jax.decision.study import points_of
from dtvit_jax.prediction.attribution import CNN_METHODS, VIT_METHODS
from dtvit_jax.prediction.classifier import Classifier
from dtvit_jax.prediction.cleaned_image import check_cleaned, is_image
from dtvit_jax.prediction.intake import (
    IdentifyTask,
    InputFile,
    StudyFiles,
    files_in,
    group_by_study,
    identified,
    identify_all,
)
from dtvit_jax.prediction.predictor import Predictor
from dtvit_jax.prediction.records import AnsweredBy, FileRow, FinishedStudy
from dtvit_jax.prediction.study_folder import StudyFolders, unwritable
from dtvit_jax.prediction.study_output import FORM, StudyOutput
from dtvit_jax.prediction.summary import Summary
from dtvit_jax.prediction.tables import strays_before, write_tables
from dtvit_jax.runs.evaluated_run import open_model
from dtvit_jax.runtime import keep_programs, quiet_libraries

BATCH_ON_CPU, BATCH = 2, 32
"""Slices of a batch: few on a CPU, where a batch takes seconds, for an early first answer."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a session.

    Attributes:
      workdir: the run that answers.
      out: folder to write.
      point: name of the operating point.
      batch: slices at a time; None: the device's default.
      jobs: number of worker processes.
      key, key_name: secret key of the pseudonyms, and the argument of `load_key` that gave it.
      dicom: whether DICOM objects are written to OUT/dicom.
      explain: method of heat maps, 'auto' or 'none'.
    """

    workdir: Path
    out: Path
    point: str
    batch: int | None
    jobs: int
    key: bytes
    key_name: str | None
    dicom: bool = True
    explain: str = "none"


class Session:
    """An open model and a locked OUT folder.

    Raises InputError as `open_model` does, where OUT can't be written, or is in use.
    """

    def __init__(self, settings: Settings) -> None:
        quiet_libraries()
        keep_programs()
        self._settings, self._out = settings, settings.out
        model = open_model(settings.workdir)
        self._cleaning = model.cleaning
        points = points_of(model.rule, settings.point)
        explain = _method(model.config.model.name, settings.explain)
        self._closing = contextlib.ExitStack()
        self._closing.enter_context(_locked(settings.out))
        lookup_at = lookup_path(settings.key_name)
        lookup = Lookup(lookup_at) if lookup_at else None
        if lookup:
            self._closing.enter_context(contextlib.closing(lookup))
        self._folders = StudyFolders(settings.out)
        self._strays = {row.file: row for row in strays_before(settings.out)}
        batch = settings.batch or (BATCH_ON_CPU if jax.default_backend() == "cpu" else BATCH)
        classifier = functools.cache(lambda: Classifier(model, batch))
        of = AnsweredBy(
            FORM,
            model.origin.checkpoint_step,
            _digest(model.rule),
            points.name,
            explain,
            model.digest,
            settings.dicom,
        )
        pseudonyms = Pseudonyms(settings.key)
        output = StudyOutput(self._folders, of, classifier, settings.out / "dicom", pseudonyms)
        self._predictor = Predictor(
            model, points, output, classifier, settings.key, settings.jobs, lookup
        )

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def answer(self, files: Iterable[tuple[IdentifyTask, InputFile | Lost]]) -> Summary:
        """Answers every study among identified files and writes the tables, also when stopped.

        Raises InputError where no file belongs to a study.
        """
        finished, strays = self._answer(files)
        if not finished:
            raise InputError(
                "PATH holds no study: files.csv in --out gives the reason for each of "
                f"{len(strays)} files"
            )
        return Summary.of(finished, strays)

    def answer_folder(self, folder: Path) -> list[Path]:
        """Answers the study in a folder and returns its DICOM objects, for the listener.

        Raises InputError where OUT can't be written.
        """
        tasks = files_in([folder], self._settings.key)
        finished, _ = self._answer(identify_all(tasks, self._settings.jobs))
        return [path for study in finished for path in study.objects]

    def answer_new(self, studies: Sequence[StudyFiles], strays: Sequence[InputFile]) -> None:
        """Answers studies, prints a line for each that was not done before, and writes the tables.

        The reasons of strays are read again. A study of images that were cleaned otherwise is
        refused on standard error. Raises InputError where OUT can't be written.
        """
        if not (studies or strays):
            return
        valid = []
        for study in studies:
            try:
                self._check_inputs(study.files)
                valid.append(study)
            except InputError as error:
                print(f"{study.key}: no answer: {error}", file=sys.stderr, flush=True)
        try:
            self._add_strays(self._predictor.refuse(strays))
            for finished in self._predictor.answer(valid):
                if not finished.before:
                    print(finished, flush=True)
        finally:
            self.write_tables()

    def write_tables(self) -> None:
        """Writes the tables over all finished studies."""
        write_tables(self._out, self._folders, self._strays.values())

    def _answer(
        self, files: Iterable[tuple[IdentifyTask, InputFile | Lost]]
    ) -> tuple[list[FinishedStudy], list[FileRow]]:
        inputs = [identified(task, result) for task, result in files]
        studies, strays = group_by_study(inputs)
        self._check_inputs(inputs)
        images = any(file.study and is_image(Path(file.path)) for file in inputs)
        if images and self._settings.key == PUBLIC_KEY:
            print(
                "warning: the key 'public' is for phantoms: whoever guesses the path of an image "
                "could check it",
                file=sys.stderr,
            )
        finished = []
        try:
            rows = self._predictor.refuse(strays)
            self._add_strays(rows)
            _warn_of_several_people(studies)
            for study in self._predictor.answer(studies):
                finished.append(study)
                print(study, flush=True)
        finally:
            self.write_tables()
        return finished, rows

    def _add_strays(self, rows: Iterable[FileRow]) -> None:
        self._strays |= {row.file: row for row in rows}

    def _check_inputs(self, files: Sequence[InputFile]) -> None:
        if self._settings.key == PUBLIC_KEY and any(file.no_person is False for file in files):
            raise public_key_refused("a DICOM file of PATH")
        paths = (Path(file.path) for file in files)
        check_cleaned(paths, self._cleaning.mode, self._cleaning.stated)


def _method(model: str, requested: str) -> str:
    """The method of heat maps; empty for none. Raises InputError where the model has not got it."""
    methods = VIT_METHODS if model.startswith("vit") else CNN_METHODS
    if requested in ("auto", "none"):
        return methods[0] if requested == "auto" else ""
    if requested not in methods:
        raise InputError(
            f"--explain {requested}: this model has {', '.join(methods)}, auto and none"
        )
    return requested


def _warn_of_several_people(studies: Sequence[StudyFiles]) -> None:
    people = {subject for study in studies for subject in study.subjects}
    if len(people) > 1:
        message = f"{len(studies)} studies of {len(people)} patients: each is answered on its own"
        print(message, file=sys.stderr)


def _digest(rule: DecisionRule) -> str:
    return hashlib.sha256(json.dumps(rule.raw, sort_keys=True).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Locks OUT against other processes. Raises InputError where it is in use."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("w")
    except OSError as error:
        raise unwritable(error) from error
    with file:
        if not lock(file):
            raise InputError("another run is writing to --out: wait for it to end")
        yield
