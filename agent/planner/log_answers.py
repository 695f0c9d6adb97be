"""Answers about a log: its failures, each quoted with its line number, and what can be counted in it.

No model takes part, so nothing is made up: a log in which nothing failed is said to name no failure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from chains.rag import Answer, Citation
from chains.text.logs import Failure, LogLine, LogReport, Severity, read_log, stamped_ends
from chains.text.words import content_words

_WRONG = re.compile(
    r"\b(?:wrong|fail\w*|errors?|crash\w*|br(?:oke|eaks?|oken)|problems?|issues?|causes?|caused|why"
    r"|happen\w*|diagnos\w*|"
    r"explain|exceptions?|traceback|panic\w*|abort\w*|stopped|died|killed|red|fix|debug|bug|trouble\w*"
    r"|succe\w+|"
    r"schief\w*|fehler\w*|warum|problem\w*|ursache|kaputt|erreurs?|pourquoi|échou\w*|falló|errores|por qué|"
    r"errore|perché|ошибк\w*|почему|сломал\w*)\b|错|失败|为什么|エラー|失敗|なぜ",
    re.I,
)
_COUNT = re.compile(
    r"\b(?:how many|how often|number of|count|wie viele|wie oft|combien|cuánt\w+|сколько)\b|多少|いくつ", re.I
)
_START = re.compile(
    r"\b(?:when|what time)\b.{0,40}\b(?:start\w*|beg[iau]n\w*)\b|\bwann\b.{0,40}\b(?:begann|gestartet)", re.I
)
_END = re.compile(
    r"\b(?:when|what time|how)\b.{0,40}\b(?:end\w*|finish\w*|stop\w*|complete\w*)\b|\blast lines?\b", re.I
)
_COUNTED: tuple[tuple[str, Severity, str], ...] = (
    (r"\bwarn", Severity.WARNING, "warn"),
    (r"\b(?:errors?|fail|exception|crash)", Severity.CONSEQUENCE, "report a failure"),
)
_REQUESTS = re.compile(r"\b(?:requests?|responses?|status|hits|http|anfragen|requêtes)\b", re.I)
_TOTAL = re.compile(
    r"\b\d+ (?:failed|passed|errors?|failures?|warnings?|skipped)\b|(?:failed|errors?|failures?)[=:] ?\d+",
    re.I,
)


def log_answer(question: str, text: str, source: str) -> Answer | None:
    r"""Return the answer to a question about a log, or None if the rules have none and the search is better.

    >>> print(log_answer("What went wrong?", "cc a.c\na.c:3:1: error: expected ';'", "a.log").text)
    The first failure, line 2:
    a.c:3:1: error: expected ';' [1]
    Right before it, line 1:
    cc a.c [2]
    """
    if _COUNT.search(question):
        return _counted(question, read_log(text), source)
    if _START.search(question) or _END.search(question):
        return _ends(question, text, source)
    if _WRONG.search(question):
        return _failures(question, read_log(text), source)
    return None


class _Quoting:
    """Collects quoted lines and their citations."""

    def __init__(self, source: str, question: str) -> None:
        self._source, self._question = source, question
        self._pieces: list[str] = []
        self._citations: list[Citation] = []

    def say(self, text: str) -> None:
        self._pieces.append(text)

    def quote(self, lines: Sequence[LogLine]) -> None:
        """Add lines verbatim, with one citation for each run of adjacent ones."""
        for run in _runs(lines):
            number = len(self._citations) + 1
            last = run[-1]
            self._citations.append(
                Citation(
                    number=number,
                    source=self._source,
                    quote="\n".join(line.text for line in run),
                    start=run[0].start,
                    end=last.start + len(last.text),
                    line=run[0].number,
                    heading="",
                    page=None,
                    chunk_id=f"{self._source}#L{run[0].number}",
                    title=self._source,
                )
            )
            shown = [line.shown for line in run]
            self._pieces.append("\n".join([*shown[:-1], f"{shown[-1]} [{number}]"]))

    def answer(self) -> Answer:
        return Answer(
            "\n".join(self._pieces),
            citations=tuple(self._citations),
            grounded=True,
            question=self._question,
            method="extractive",
            score=1.0,
        )


def _runs(lines: Sequence[LogLine]) -> Iterator[list[LogLine]]:
    run: list[LogLine] = []
    for line in lines:
        if run and line.number != run[-1].number + 1:
            yield run
            run = []
        run.append(line)
    if run:
        yield run


def _failures(question: str, report: LogReport, source: str) -> Answer:
    quoting = _Quoting(source, question)
    root = report.root
    if root is None:
        warned = report.counts.get(Severity.WARNING, 0)
        also = f"; {_lines(warned)} {'warns' if warned == 1 else 'warn'}" if warned else ""
        quoting.say(f"None of the {_lines(report.lines)} names a failure{also}. The last lines:")
        quoting.quote(report.last)
        return quoting.answer()
    chosen = report.chosen([word for word in content_words(question) if not _WRONG.fullmatch(word)])
    shown: set[int] = set()
    for failure in sorted(chosen, key=lambda one: one is not root):
        lead = "The first failure" if failure is root else "Another failure"
        if failure.severity < Severity.FAILURE:
            lead = "The first sign of it" if failure is root else "What followed"
        quoting.say(f"{lead}, {_place(failure)}:")
        lines = [line for line in failure.shown_lines if line.number not in shown]
        shown |= {line.number for line in lines}
        quoting.quote(lines)
        if failure is root and report.before:
            quoting.say(f"Right before it, {_numbers(report.before)}:")
            quoting.quote(report.before)
            shown |= {line.number for line in report.before}
    last = [line for line in report.last if line.number not in shown]
    if last:
        quoting.say(f"The last {'line' if len(last) == 1 else 'lines'}, {_numbers(last)}:")
        quoting.quote(last)
    hidden = sum(one.severity >= Severity.CONSEQUENCE for one in report.failures) - len(chosen)
    if hidden > 0:
        quoting.say(f"({hidden} other {'failure is' if hidden == 1 else 'failures are'} not shown.)")
    return quoting.answer()


def _place(failure: Failure) -> str:
    place = _numbers(failure.lines)
    return f"{place} ({failure.count} times, last on line {failure.last})" if failure.count > 1 else place


def _numbers(lines: Sequence[LogLine]) -> str:
    first, last = lines[0].number, lines[-1].number
    return f"line {first}" if first == last else f"lines {first} to {last}"


def _lines(count: int) -> str:
    return f"{count:,} line{'' if count == 1 else 's'}"


def _counted(question: str, report: LogReport, source: str) -> Answer | None:
    """Count what the question asks for; a total that the log itself names is quoted."""
    quoting = _Quoting(source, question)
    totals = [line for line in report.last if _TOTAL.search(line.text)]
    totals = totals or [
        line for one in report.failures[-3:] for line in one.lines if _TOTAL.search(line.text)
    ]
    if report.statuses and (_REQUESTS.search(question) or not totals):
        failed = {status: count for status, count in sorted(report.statuses.items()) if status >= 400}
        several = ", ".join(f"{count:,} with status {status}" for status, count in failed.items())
        total, bad = sum(report.statuses.values()), sum(failed.values())
        quoting.say(f"{bad:,} of {total:,} requests failed" + (f": {several}." if several else "."))
        return _with_example(quoting, report)
    if totals:
        quoting.quote(totals[-1:])
        return quoting.answer()
    for pattern, least, what in _COUNTED:
        if re.search(pattern, question, re.I):
            if least == Severity.WARNING:
                found = report.counts.get(least, 0)
            else:
                found = sum(one.count for one in report.failures if one.severity >= least)
            quoting.say(f"{found:,} of {_lines(report.lines)} {what}.")
            return _with_example(quoting, report)
    return None


def _with_example(quoting: _Quoting, report: LogReport) -> Answer:
    if report.first:
        quoting.say("The first of them:")
        quoting.quote(report.first[:1])
    else:
        quoting.say("The last lines:")
        quoting.quote(report.last)
    return quoting.answer()


def _ends(question: str, text: str, source: str) -> Answer | None:
    """Return the first or the last line that has a time."""
    first, last = stamped_ends(text)
    wanted = first if _START.search(question) else last
    if wanted is None:
        return None
    quoting = _Quoting(source, question)
    quoting.quote([wanted])
    return quoting.answer()
