"""Counts what a run of predict did, for its last line on the terminal."""

import collections
import dataclasses
from collections.abc import Sequence

from dtvit_jax.prediction.records import FileRow, FinishedStudy


@dataclasses.dataclass(frozen=True)
class Summary:
    """Counts of studies and files of a run; `refused_files` without those of data_builder."""

    studies: int
    before: int
    without_answer: int
    decisions: dict[str, int]
    used_files: int
    refused_files: int
    reasons: dict[str, int]

    @classmethod
    def of(cls, finished: Sequence[FinishedStudy], strays: Sequence[FileRow]) -> "Summary":
        """Counts finished studies with their files, and files of no study."""
        rows = [row for study in finished for row in study.files] + list(strays)
        answers = [study.results.study for study in finished]
        decisions = collections.Counter(answer.decision for answer in answers if answer)
        reasons = collections.Counter(row.reason for row in rows if row.use == "refused")
        return cls(
            studies=len(finished),
            before=sum(study.before for study in finished),
            without_answer=answers.count(None),
            decisions=dict(sorted(decisions.items())),
            used_files=sum(row.use == "used" for row in rows),
            refused_files=reasons.total(),
            reasons=dict(sorted(reasons.items())),
        )

    def __str__(self) -> str:
        decisions = ", ".join(f"{n} {decision}" for decision, n in self.decisions.items())
        text = f"{self.studies} studies" if self.studies != 1 else "1 study"
        text += f": {decisions or 'no answer'}"
        if decisions and self.without_answer:
            text += f", {self.without_answer} without an answer"
        if self.before:
            text += f" ({self.before} done before)"
        text += f"; {self.used_files} files used"
        if self.refused_files:
            reasons = ", ".join(f"{n} {reason}" for reason, n in self.reasons.items())
            text += f", {self.refused_files} refused (files.csv): {reasons}"
        return text
