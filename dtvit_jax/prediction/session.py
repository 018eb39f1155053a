"""One program over one OUT: the model opened, the folder locked, studies answered and told of."""

import collections
import contextlib
import dataclasses
import fcntl
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax

from data_builder.errors import InputError
from data_builder.parallel.processes import InOrder, Lost
from data_builder.pseudonyms import Lookup, lookup_path
from dtvit_jax.decision.study import points_of
from dtvit_jax.prediction.classifier import Classifier
from dtvit_jax.prediction.cleaned_image import check_cleaned
from dtvit_jax.prediction.intake import (
    SECONDS_TO_LOOK,
    Found,
    Look,
    StudyFiles,
    files_in,
    group,
    look,
    unseen,
)
from dtvit_jax.prediction.predictor import Options, Predictor
from dtvit_jax.prediction.study_folder import Finished, StudyFolders, unwritable
from dtvit_jax.prediction.study_input import Row
from dtvit_jax.prediction.tables import strays_before, write_tables
from dtvit_jax.runs.evaluated_run import open_model
from dtvit_jax.runtime import keep_programs

BATCH_ON_CPU, BATCH = 2, 32
"""Slices at a time: few where a batch takes seconds, so that the first answer comes soon."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line says. batch: None for the device's own; key_name: as `load_key`'s;
    dicom: write DICOM objects to OUT/dicom; explain: method of heat maps, 'auto' or 'none'.
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


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run did, in studies and files; `refused_files` without data_builder's own."""

    studies: int
    before: int
    without_answer: int
    decisions: dict[str, int]
    used_files: int
    refused_files: int
    reasons: dict[str, int]

    def __str__(self) -> str:
        told = ", ".join(f"{n} {decision}" for decision, n in self.decisions.items())
        text = f"{self.studies} studies" if self.studies != 1 else "1 study"
        text += f": {told or 'no answer'}"
        if told and self.without_answer:
            text += f", {self.without_answer} without an answer"
        if self.before:
            text += f" ({self.before} done before)"
        text += f"; {self.used_files} files used"
        if self.refused_files:
            listed = ", ".join(f"{n} {reason}" for reason, n in self.reasons.items())
            text += f", {self.refused_files} refused (files.csv): {listed}"
        return text


class Session:
    """An open model over an OUT folder, which nobody else writes to meanwhile.

    Raises InputError as `open_model`, where OUT can't be written, or is in use.
    """

    def __init__(self, settings: Settings) -> None:
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
        self._strays = {row["file"]: row for row in strays_before(settings.out)}
        on_cpu = jax.default_backend() == "cpu"
        batch = settings.batch or (BATCH_ON_CPU if on_cpu else BATCH)
        dicom = settings.out / "dicom" if settings.dicom else None
        options = Options(points, settings.jobs, settings.key, dicom, explain)
        self._predictor = Predictor(
            model, self._folders, options, lambda: Classifier(model, batch), lookup
        )

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def answer(self, looking: Iterable[tuple[Look, Found | Lost]]) -> Summary:
        """Answers every study among the files, and writes the tables; also when it is stopped.

        Raises InputError where no file is of a study.
        """
        finished, strays = self._answer(looking)
        if not finished:
            raise InputError(
                f"PATH holds no study: files.csv in --out says of each of {len(strays)} files why"
            )
        return _summary(finished, strays)

    def _answer(
        self, looking: Iterable[tuple[Look, Found | Lost]]
    ) -> tuple[list[Finished], list[Row]]:
        found = [at if isinstance(at, Found) else unseen(task) for task, at in looking]
        studies, strays = group(found)
        self._check_cleaned(found)
        finished = []
        try:
            rows = self._predictor.refuse(strays)
            self._strays |= {row["file"]: row for row in rows}
            _tell_of_people(studies)
            for one in self._predictor.answer(studies):
                finished.append(one)
                print(in_words(one), flush=True)
        finally:
            self.write_tables()
        return finished, rows

    def answer_folder(self, folder: Path) -> list[Path]:
        """Answers the study in a folder; its DICOM objects. For the listener.

        Raises InputError where it has no answer.
        """
        looks = files_in([folder], self._settings.key)
        looking = InOrder(looks, look, self._settings.jobs, lambda _: SECONDS_TO_LOOK)
        finished, _ = self._answer(looking)
        return [path for one in finished for path in one.objects]

    def answer_quiet(
        self,
        studies: Sequence[StudyFiles],
        strays: Sequence[Found],
        on_finished: Callable[[Finished], None],
    ) -> None:
        """Answers what is new and calls back for every answer that was not called back for yet.

        A study of images that were cleaned otherwise is passed over, with a word. Raises InputError
        where OUT can't be written.
        """
        new = [found for found in strays if found.file not in self._strays]
        if not (studies or new):
            return
        fit = []
        for study in studies:
            try:
                self._check_cleaned(study.files)
                fit.append(study)
            except InputError as error:
                print(f"{study.key}: no answer: {error}", file=sys.stderr, flush=True)
        try:
            self._strays |= {row["file"]: row for row in self._predictor.refuse(new)}
            for one in self._predictor.answer(fit):
                if not self._folders.is_told(one.key):
                    print(in_words(one), flush=True)
                    on_finished(one)
                    self._folders.mark_told(one.key)
        finally:
            self.write_tables()

    def _check_cleaned(self, found: Iterable[Found]) -> None:
        paths = (Path(one.path) for one in found)
        check_cleaned(paths, self._cleaning.mode, self._cleaning.stated)

    def write_tables(self) -> None:
        """Brings the tables over all studies up to date."""
        write_tables(self._out, self._folders, self._strays.values())


def _method(model: str, asked: str) -> str:
    """The method of heat maps; empty for none. Raises InputError where the model has no such."""
    known = ("gradient", "rollout") if model.startswith("vit") else ("grad_cam",)
    if asked in ("auto", "none"):
        return known[0] if asked == "auto" else ""
    if asked not in known:
        raise InputError(f"--explain {asked}: this model has {', '.join(known)}, auto and none")
    return asked


def in_words(one: Finished) -> str:
    """A line for a finished study."""
    if one.answer is None:
        return f"{one.key}: no answer: {one.refusal}"
    where = f", {one.answer.location}" if one.answer.location else ""
    why = f" ({'; '.join(one.answer.reasons)})" if one.answer.reasons else ""
    before = ", done before" if one.before else ""
    return f"{one.key}: {one.answer.decision}{where}, p {one.answer.p_hemorrhage:.3f}{why}{before}"


def _tell_of_people(studies: list[StudyFiles]) -> None:
    people = {subject for study in studies for subject in study.subjects}
    if len(people) > 1:
        told = f"{len(studies)} studies of {len(people)} patients: each is answered on its own"
        print(told, file=sys.stderr)


def _summary(finished: list[Finished], strays: list[Row]) -> Summary:
    rows = [row for one in finished for row in one.files] + strays
    refused = [row for row in rows if row["use"] == "refused"]
    decisions = collections.Counter(one.answer.decision for one in finished if one.answer)
    return Summary(
        studies=len(finished),
        before=sum(one.before for one in finished),
        without_answer=sum(one.answer is None for one in finished),
        decisions=dict(sorted(decisions.items())),
        used_files=sum(row["use"] == "used" for row in rows),
        refused_files=len(refused),
        reasons=dict(sorted(collections.Counter(row["reason"] for row in refused).items())),
    )


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("w")
    except OSError as error:
        raise unwritable(error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError("another run is writing to --out: wait for it to end") from error
        yield
