r"""The lines of a log that matter: what failed first, what else failed, what came right before, how it ended.

Lines are chosen by rules, in one pass of linear time: levels, exit codes, and the words with which the common
tools report a failure. A traceback, a compiler's excerpt or an error box is one failure with all its lines.
Failures that differ only in numbers, times and names are one, with their count.

    >>> report = read_log("start\ncc -c a.c\na.c:3:1: error: expected ';'\nmake: *** [a.o] Error 1\n")
    >>> [(line.number, line.text) for line in report.first]
    [(3, "a.c:3:1: error: expected ';'")]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

MAX_LINE_CHARS = 400
"""A longer line is shown with its middle left out."""
MAX_BLOCK_LINES = 40
"""A longer traceback is shown with the middle of its frames left out."""
BEFORE, LAST = 3, 3
_SAMPLE = 200
_READ_CHARS = 1000
"""Characters of a line that are looked at. A line of base64 of 1 MB says nothing more in the rest."""


class Severity(IntEnum):
    """How much a line says about a failure: a sign of one, its consequence, or the failure itself."""

    NONE = 0
    WARNING = 1
    CONSEQUENCE = 2
    FAILURE = 3


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line: its number from 1, its offset in the text, and its text without line end."""

    number: int
    start: int
    text: str

    @property
    def shown(self) -> str:
        """The line, with its middle left out if it is long."""
        text = self.text.rstrip()
        half = MAX_LINE_CHARS // 2
        return text if len(text) <= MAX_LINE_CHARS else f"{text[:half]} … {text[-half:]}"


@dataclass(slots=True)
class Failure:
    """One failure: its lines, how severe it is, and how often it occurs."""

    lines: list[LogLine]
    severity: Severity
    count: int = 1
    last: int = 0

    @property
    def shown_lines(self) -> list[LogLine]:
        """The lines, without the middle of a long traceback."""
        if len(self.lines) <= MAX_BLOCK_LINES:
            return self.lines
        half = MAX_BLOCK_LINES // 2
        return self.lines[:half] + self.lines[-half:]


@dataclass(slots=True)
class LogReport:
    """What a log says of failures.

    Args:
        lines: How many lines the log has.
        failures: The failures, each once, in the order of their first occurrence.
        before: What stands right before the first failure.
        last: The last lines.
        counts: How many lines there are of each severity.
        statuses: How many requests an access log has of each HTTP status.
    """

    lines: int = 0
    failures: list[Failure] = field(default_factory=list)
    before: list[LogLine] = field(default_factory=list)
    last: list[LogLine] = field(default_factory=list)
    counts: dict[Severity, int] = field(default_factory=dict)
    statuses: dict[int, int] = field(default_factory=dict)

    @property
    def first(self) -> list[LogLine]:
        """The lines of the first failure; empty if nothing failed."""
        root = self.root
        return root.shown_lines if root else []

    @property
    def root(self) -> Failure | None:
        """The first failure itself, or else the first consequence of one."""
        for least in (Severity.FAILURE, Severity.CONSEQUENCE):
            found = next((one for one in self.failures if one.severity >= least), None)
            if found is not None:
                return found
        return None

    def chosen(self, words: Sequence[str] = (), most: int = 6) -> list[Failure]:
        """Return the failures to show, at most `most`: the first, the last, and the most telling others.

        A failure that holds one of `words` (those of a question) comes before one that does not.
        """
        root = self.root
        if root is None:
            return []
        severe = [one for one in self.failures if one.severity >= Severity.CONSEQUENCE]
        asked = {word.casefold() for word in words}

        def weight(one: Failure) -> tuple[bool, int, bool, int, int]:
            text = " ".join(line.text for line in one.lines[:MAX_BLOCK_LINES]).casefold()
            return (
                any(word in text for word in asked),
                one.severity,
                len(one.lines) > 1,
                -one.count,
                one.last,
            )

        kept = [root, *([severe[-1]] if severe[-1] is not root else [])]
        for one in sorted(severe, key=weight, reverse=True):
            if len(kept) >= most:
                break
            if not any(one is other for other in kept):
                kept.append(one)
        return sorted(kept, key=lambda one: one.lines[0].number)


# The beginning of a line: times, levels, hosts, thread names, container names.
_TIME = (
    r"\[?(?:\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z| ?[+-]\d\d:?\d\d)?"
    r"|\d{1,2}:\d\d:\d\d(?:[.,]\d+)?"
    r"|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?: \d{4})?|\d{4}/\d\d/\d\d \d\d:\d\d:\d\d"
    r"|\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d"
    r":\d\d(?: [+-]\d{4})?|[ \d]{0,6}\d\.\d{3,6}|\d{10,13})\]?"
)
_PREFIX = re.compile(
    rf"(?:[\w.-]{{1,60}}\s+\|\s)?(?:{_TIME}[\s,|:-]*){{0,2}}"
    r"(?:(?:[\w.-]{1,64} )?[\w./@-]{1,64}(?:\[\d{1,10}\])?: )?(?:#\d+ (?:\d+\.\d+ )?)?"
)
_STAMPED = re.compile(rf"(?:[\w.-]{{1,60}}\s+\|\s)?{_TIME}")
_LEVEL = re.compile(
    r"(?:^|[\s\[(|<\"'=])(FATAL|CRITICAL|CRIT|EMERG|ALERT|PANIC|SEVERE|ERROR|ERR|WARNING|WARN|NOTICE|INFO"
    r"|DEBUG|TRACE"
    r"|fatal|critical|crit|emerg|error|err|warning|warn|notice|info|debug|trace)(?=$|[\s\])|>:\"',!])"
)
_KLOG = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ ")
_CALM = frozenset({"NOTICE", "INFO", "DEBUG", "TRACE"})
_LOUD = frozenset({"FATAL", "CRITICAL", "CRIT", "EMERG", "ALERT", "PANIC", "SEVERE", "ERROR", "ERR"})

_NOTHING = re.compile(
    r"\b(?:0|no|zero|without|any) (?:new |known )?(?:errors?|failures?|failed|warnings?|problems?"
    r"|vulnerabilities)\b"
    r"|\b(?:errors?|failures?|failed|fail|warnings?|unreachable|rescued)\s*[=:]\s*0\b"
    r"|\bexit(?:ed with)? (?:code|status):? 0\b"
    r"|status=0/SUCCESS|\b(?:code|rc|returncode)[=: ]+0\b|error-?free|\bignor(?:ed|ing)\b[^\n]{0,40}error"
    r"|-Werror|-Wno-error|[\w-]{1,40}-error[\w-]{0,40}\.\w+|libgpg-error|error_?(?:log|page|handler|reporting"
    r"|level)s?\b"
    r"|--fail-?\w+|fail-?(?:fast|over|safe|ed_when|2ban)|on[-_]?(?:error|failure)\b|(?:error"
    r"|fail)[\w-]*\.(?:js|py|go|rs|c|h|o|rb|ts)\b"
    r"(?!:\d)|\bretr(?:y|ied|ying)\b[^\n]{0,60}\bsucce",
    re.I,
)
_FAILURES = re.compile(
    # Python, Java, JavaScript, Go, Rust, .NET
    r"^Traceback \(most recent call last\)|^(?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception|Fault|Interrupt)\b(?::|$)"
    r"|^Exception in thread|^Caused by:|^panic: |^fatal error: |^thread '.*' panicked"
    r"|^Unhandled [Ee]xception|^Uncaught "
    r"|^error(?:\[\w+\])?: |^E  +\S|^FAILED \S|^--- FAIL: |^not ok \d|^\s*\d+\) .*(?:fail|error)"
    # compilers, linkers, build tools
    r"|:\d+(?::\d+)?:? (?:fatal )?error\b|: (?:fatal )?error(?: [A-Z]{1,4}\d+)?: |undefined reference to"
    r"|ld(?:\.\w+)?: cannot find"
    r"|^(?:CMake|Build) Error\b|^CMake Error|No rule to make target|^npm (?:ERR!|error) (?!A complete log"
    r"|    )|^ERROR(?:\b|:)|^Error:"
    r"|^\[ERROR\]|^\* What went wrong|^> .*(?:[Ff]ailed|not found|[Cc]ould not)|^E: |^dpkg: error|^fatal: "
    r"|^╷?│? ?Error: "
    r"|##\[error\](?!Process completed)|^::error|^ERROR in |^error TS\d+"
    # systems, containers, networks
    r"|kernel BUG|^BUG: |^Oops\b|Oops: |general protection fault|Unable to handle kernel|Kernel panic"
    r"|[Ss]egmentation fault|segfault at"
    r"|[Oo]ut of memory|OOMKilled|oom-kill|Killed process|core dumped|Call Trace|I/O error"
    r"|No space left on device"
    r"|CrashLoopBackOff|ImagePullBackOff|ErrImagePull|CreateContainerConfigError|Back-off restarting"
    r"|FailedScheduling|FailedMount"
    r"|[Pp]ermission denied|[Cc]onnection (?:refused|reset|timed out)|[Nn]o such file or directory"
    r"|[Cc]ommand not found"
    r"|: not found$|[Cc]annot (?:find|open|access|connect|allocate|resolve|load|read|write|create)"
    r"|[Cc]ould not \w+|[Cc]ouldn't \w+"
    r"|[Uu]nable to \w+|[Ff]ailed to \w+|[Tt]imed? ?out\b|[Uu]nreachable|FAILED!|[Ii]nvalid \w+"
    r"|[Aa]ccess denied|[Uu]nauthorized"
    r"|Failed (?:to|with)|failed: \S|[Aa]ssertion .{0,80}failed|Assertion failed|[Dd]eadlock"
    r"|certificate (?:has expired|verify failed)"
    r"|upstream (?:prematurely|timed)|[Aa]lready in use|^\S+\.\w+:\d+:\d+: [A-Z]+\d+ "
    r"|Main process exited, code=(?:exited|killed"
    r"|dumped), status=[1-9]"
)
_LINT = re.compile(r"\S{1,200}\.\w{1,5}:\d+:\d+: [A-Z]{1,4}\d{1,5} ")
# Every failure and consequence holds one of these. Looking for them first takes a tenth of the time.
_TRIGGERS = (
    "err fail exception fault traceback panic fatal caused uncaught unhandled interrupt undefined cannot "
    "can't couldn could unable wrong found denied refused reset timed timeout such space backoff back-off "
    "imagepull killed dumped trace i/o memory oom oops bug unreachable invalid unauthorized deadlock "
    "certificate exited exit non-zero *** stop abort crash compil elifecycle complete terminated already "
    "upstream assert e: prematurely violation rule "
).split()
_CONSEQUENCES = re.compile(
    r"^g?make(?:\[\d+\])?: \*\*\* |^ninja: build stopped|BUILD FAILED|BUILD FAILURE|Build FAILED|\bFAILED\b"
    r"|Errors were encountered"
    r"|exit(?:ed)?(?: with)?(?: non-zero)?(?: exit)? (?:code|status)[: =]*[1-9]\d*|returned (?:a )?non-zero"
    r"|exit status [1-9]"
    r"|Process completed with exit code [1-9]|\b[1-9]\d* (?:failed|failures?|errors?)\b|\b(?:failed"
    r"|failures|errors|unreachable)=[1-9]"
    r"|could not compile|aborting due to|Configuring incomplete, errors|did not complete successfully"
    r"|ELIFECYCLE"
    r"|Failed with result|Sub-process .* returned an error code|Job failed|pipeline failed"
    r"|A complete log of this run"
    r"|^FAIL\b|test result: FAILED|compilation terminated|Error \d+$|\b(?:failed|error|crashed|aborted)\b",
    re.I,
)
_WARNINGS = re.compile(r"\bwarn(?:ing)?s?\b|\bdeprecated\b", re.I)
_ACCESS = re.compile(r"\"[A-Z]{3,8} [^\"]{0,2000}\" (\d{3}) (?:\d+|-)(?:\s|$)")

# Lines below a failure that belong to it.
_MORE = re.compile(
    r"\s+\S|at \S|Caused by:|\.\.\. \d+ more|\||│|╵|╷|E  |npm (?:ERR!|error)\b|goroutine \d+ \["
    r"|[\w./*()]+\(.{0,200}\)$|\^|~+|="
    r"|[Nn]ote: |help: |RIP:|RSP:|R[A-Z0-9]{2}:|Code: |Call Trace|CPU: |Hardware name|Modules linked"
    r"|---\[ end|exit status \d"
    r"|\[signal |created by |During handling of the above|The above exception|Traceback \(most"
)
_TRACE_START = re.compile(r"Traceback \(most recent call last\)")
_KERNEL = re.compile(r"kernel BUG|BUG: |Oops|Unable to handle kernel|general protection fault")
_VARIABLE = re.compile(
    r"0x[0-9a-f]+|\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\b[0-9a-f]{7,64}\b|\d+|'[^']{0,200}'|\"[^\"]{0,200}\"", re.I
)


def severity(line: str) -> Severity:
    """Return how much a line says about a failure.

    >>> severity("2027-03-02 ERROR disk full").name, severity("0 errors, 3 tests passed").name
    ('FAILURE', 'NONE')
    """
    return _severity(line[:_READ_CHARS])[0]


def _severity(line: str) -> tuple[Severity, str]:
    """Return a line's severity, and the line without its prefix of times and hosts."""
    prefix = _PREFIX.match(line)
    body = line[prefix.end() :] if prefix else line
    stamp = _STAMPED.match(line)
    plain = line[stamp.end() :].lstrip(" \t:-|") if stamp else line
    if (access := _ACCESS.search(line)) is not None:
        status = int(access[1])
        return (
            Severity.FAILURE if status >= 500 else Severity.WARNING if status >= 400 else Severity.NONE
        ), plain
    klog = _KLOG.search(line[:120])
    level = {"I": "INFO", "W": "WARN", "E": "ERROR", "F": "FATAL"}[klog[1]] if klog else ""
    if (
        not level
        and (named := _LEVEL.search(line[:160])) is not None
        and (named[1].isupper() or "level=" in line[:160] or stamp)
    ):
        level = named[1].upper()
    calm = level in _CALM
    low = line.lower()
    if not any(word in low for word in _TRIGGERS) and level not in _LOUD:
        if not calm and (_LINT.match(body) or _LINT.match(plain) or plain.startswith(("not ok ", "E  "))):
            return Severity.FAILURE, plain
        warned = level in {"WARN", "WARNING"} or (not calm and _WARNINGS.search(body) is not None)
        return (Severity.WARNING if warned else Severity.NONE), plain
    cleaned = _NOTHING.sub(" ", body)
    own = _NOTHING.sub(" ", plain) if plain != body else cleaned
    if level in _LOUD and (cleaned.strip() == body.strip() or _FAILURES.search(cleaned)):
        return Severity.FAILURE, plain
    if not calm and level not in {"WARN", "WARNING"} and (_FAILURES.search(cleaned) or _FAILURES.search(own)):
        consequence = re.match(r"g?make(?:\[\d+\])?: \*\*\* \[", own) or re.search(
            r"Process completed with", own
        )
        return (Severity.CONSEQUENCE if consequence else Severity.FAILURE), plain
    if (
        not calm
        and level not in {"WARN", "WARNING"}
        and (_CONSEQUENCES.search(cleaned) or _CONSEQUENCES.search(own))
    ):
        return Severity.CONSEQUENCE, plain
    if level in {"WARN", "WARNING"} or (not calm and _WARNINGS.search(cleaned)):
        return Severity.WARNING, plain
    return Severity.NONE, plain


def looks_like_log(text: str, name: str = "") -> bool:
    r"""Return whether a text is a log: the output of a program, line by line.

    >>> looks_like_log("12:00:01 INFO started\n12:00:02 ERROR disk full\n"), looks_like_log("Dear Ada,\nhi.")
    (True, False)
    """
    if re.search(r"\.(?:log|err|out)(?:\.\d+)?$", name, re.I):
        return True
    lines = [line for line in _ends(text) if line.strip()]
    if not lines:
        return False
    stamped = sum(
        bool(_STAMPED.match(line) or _KLOG.match(line) or _ACCESS.search(line[:_READ_CHARS]))
        for line in lines
    )
    if stamped * 3 >= len(lines):
        return True
    if re.search(r"\.(?!txt$)[a-z]{1,5}$", name, re.I):
        return False  # a document of another kind, which may talk of errors
    found = [_severity(line[:_READ_CHARS])[0] for line in lines]
    reported = found.count(Severity.FAILURE) >= 1 or found.count(Severity.CONSEQUENCE) >= 2
    prose = sum(
        line[:1].isupper() and line.rstrip().endswith((".", "!", "?")) and len(line.split()) > 3
        for line in lines
    )
    return reported and prose * 4 < len(lines)


def _ends(text: str) -> list[str]:
    """Return the first and the last lines of a text."""
    if len(text) <= 400_000:
        lines = text.splitlines()
        return lines if len(lines) <= 2 * _SAMPLE else lines[:_SAMPLE] + lines[-_SAMPLE:]
    return text[:200_000].splitlines()[:_SAMPLE] + text[-200_000:].splitlines()[-_SAMPLE:]


def read_log(text: str) -> LogReport:
    """Return what a log says of failures; 2 MB take about a second."""
    report = LogReport()
    by_shape: dict[str, Failure] = {}
    recent: list[LogLine] = []
    open_block: Failure | None = None
    kind = ""
    gap = 0
    start = 0
    for number, raw in enumerate(text.split("\n"), start=1):
        line = LogLine(number, start, raw)
        start += len(raw) + 1
        if not raw.strip():
            gap += 1
            continue
        found, body = _severity(raw[:_READ_CHARS])
        report.lines += 1
        report.counts[found] = report.counts.get(found, 0) + 1
        if (access := _ACCESS.search(raw[:_READ_CHARS])) is not None:
            report.statuses[int(access[1])] = report.statuses.get(int(access[1]), 0) + 1
        if open_block is not None and _goes_on(kind, body, gap):
            open_block.lines.append(line)
            if kind == "trace" and body[:1] not in " \t" and not _TRACE_START.match(body):
                kind = "after"
            elif _TRACE_START.match(body):
                kind = "trace"
        elif found >= Severity.CONSEQUENCE:
            open_block = Failure([line], found, last=number)
            trace = _TRACE_START.search(body)
            kind = "trace" if trace else "kernel" if _KERNEL.search(body) else "lines"
            report.failures.append(open_block)
        else:
            open_block = None
        gap = 0
        if not report.failures:
            recent = [*recent[1 - BEFORE :], line]
        report.last = [*report.last[1 - LAST :], line]
    report.before = recent
    report.failures = _merged(report.failures, by_shape)
    return report


def _goes_on(kind: str, body: str, gap: int) -> bool:
    """Return whether a line belongs to the failure above it."""
    if kind == "trace":
        return True  # up to the line that names the exception, which is not indented
    if kind == "after":
        return bool(re.match(r"Traceback \(most|During handling|The above exception", body))
    if kind == "kernel":
        return gap == 0 and bool(re.match(r"\s|[A-Z]{2,4}:|[A-Z][\w ]+:|---\[|#PF|\[<|\w+\+0x|\?", body))
    boxed = body[:1] in "│╵|"
    return (gap == 0 or boxed) and bool(_MORE.match(body))


def _merged(failures: list[Failure], by_shape: dict[str, Failure]) -> list[Failure]:
    """Return the failures, those that differ only in numbers and names as one with their count."""
    for one in failures:
        _, body = _severity(one.lines[0].text[:_READ_CHARS])
        last = one.lines[-1].text[:_READ_CHARS] if len(one.lines) > 1 else ""
        shape = _VARIABLE.sub("#", f"{body}\n{last}")
        known = by_shape.setdefault(shape, one)
        if known is not one:
            known.count += 1
            known.last = one.lines[0].number
    return list(by_shape.values())


def stamped_ends(text: str) -> tuple[LogLine | None, LogLine | None]:
    """Return the first and the last line that begin with a time; None for each if no line does."""
    first = last = None
    start = 0
    for number, raw in enumerate(text.split("\n"), start=1):
        if _STAMPED.match(raw) or _KLOG.match(raw) or _ACCESS.search(raw[:_READ_CHARS]):
            last = LogLine(number, start, raw)
            first = first or last
        start += len(raw) + 1
    return first, last
