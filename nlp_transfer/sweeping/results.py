"""The results of a sweep: every run, the one chosen by its validation figure, and the test figure of that one."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.formatting import format_interval, number
from nlp_transfer.evaluation.names import HIGHER_IS_BETTER
from nlp_transfer.evaluation.report import Report
from nlp_transfer.running.folder import RunFolder
from nlp_transfer.sweeping.job import FINISHED, Job
from nlp_transfer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Results:
    """The runs of a sweep.

    Attributes:
        name: of the sweep.
        jobs: its runs, in the order in which they were started.
        keys: the keys that differ between runs.
    """

    name: str
    jobs: Sequence[Job]
    keys: Sequence[str]

    @cached_property
    def metric(self) -> str | None:
        """The metric that all finished runs share; None if they have none or several."""
        metrics = {job.metric for job in self.finished}
        return metrics.pop() if len(metrics) == 1 else None

    @cached_property
    def finished(self) -> list[Job]:
        """The finished runs with a figure on validation rows."""
        return [job for job in self.jobs if job.state == FINISHED and job.figure is not None]

    @cached_property
    def ranked(self) -> list[Job]:
        """All runs, the best first; runs without a comparable figure come last."""
        sign = -1 if self.metric is None or HIGHER_IS_BETTER[self.metric] else 1
        finished = self.finished if self.metric else []
        ordered = sorted(finished, key=lambda job: sign * (job.figure or 0.0))
        words = {job.words for job in ordered}
        return [*ordered, *(job for job in self.jobs if job.words not in words)]

    @cached_property
    def chosen(self) -> Job | None:
        """The run with the best validation figure; None if the runs share no metric."""
        return self.ranked[0] if self.metric else None

    @cached_property
    def report(self) -> Report | None:
        """The report of the chosen run: on test rows, or on validation rows if there are none."""
        if self.chosen is None or self.chosen.folder is None:
            return None
        with suppress(UserError):
            return RunFolder(Path(self.chosen.folder)).report()
        return None

    @cached_property
    def sentences(self) -> list[str]:
        """A summary of the results, the most important sentence first."""
        if self.chosen is None or self.chosen.figure is None:
            cause = "their metrics differ" if self.finished else "none has a figure on validation rows"
            return [f"No run can be chosen: {cause}."]
        runs = counted(len(self.finished), "finished run")
        values = " ".join(f"{key}={brief(value)}" for key, value in self.values(self.chosen).items())
        sentences = [
            f"Best of {runs} by validation {self.metric}, {number(self.chosen.figure)}: {values or 'the only one'}."
        ]
        if self.report is not None and self.report.split == "test":
            figure = format_interval(self.report.rows[0].intervals[self.report.metric])
            rows = counted(self.report.examples, "test row")
            sentences.append(f"Its {self.report.metric} on {rows}, which chose nothing: {figure}.")
        else:
            sentences.append("There are no test rows: nothing says what it is worth on rows that did not choose it.")
        if len(self.finished) > 1:
            sentences.append(
                f"The validation figure of the best of {len(self.finished)} is optimistic, because it was selected by "
                "it; runs with similar figures may be as good."
            )
        if len({job.fingerprint for job in self.finished}) > 1:
            sentences.append("The data changed between runs: their figures are of different rows.")
        return sentences

    def values(self, job: Job) -> Mapping[str, str]:
        """Return a run's values of the keys that differ, as they were typed."""
        values = dict(word.lstrip("+").partition("=")[::2] for word in job.words)
        return {key: values.get(key, "") for key in self.keys}


def brief(value: str) -> str:
    """Return a number with four significant digits, and any other text unchanged."""
    try:
        return f"{float(value):.4g}" if "." in value or "e" in value else value
    except ValueError:
        return value


def to_csv(results: Results) -> str:
    """Return one line per run, the best first, without figures on test rows."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(["state", "metric", "validation", "seconds", "folder", *results.keys])
    for job in results.ranked:
        figures = ("" if value is None else repr(value) for value in (job.figure, job.seconds))
        lines.writerow([job.state, job.metric or "", *figures, job.folder or "", *results.values(job).values()])
    return out.getvalue()


def to_jsonl(results: Results) -> str:
    """Return one JSON object per run, the best first, without figures on test rows."""
    return "".join(json.dumps(job.to_json(), ensure_ascii=False) + "\n" for job in results.ranked)
