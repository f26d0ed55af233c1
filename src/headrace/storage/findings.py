"""Findings: what a build or a preflight has noticed, how bad it is, and what to do about it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace.errors import PreflightWarning

#: It will not work. A set-up that finds some is refused.
ERROR = "error"
#: It may go wrong elsewhere, or costs much. Told by ``warnings``.
WARNING = "warning"
#: Worth knowing, and meant so, perhaps.
NOTE = "note"
_LEVELS = (ERROR, WARNING, NOTE)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was noticed.

    Attributes
    ----------
    level : str
        ``"error"``, ``"warning"`` or ``"note"``.
    subject : str
        What it is about: a flow and the way to a part of it, a package, a storage.
    message : str
        What was found.
    remedy : str
        What to do.
    """

    level: str
    subject: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}; {self.remedy}"


def finding_of(error: BaseException, subject: str, level: str = ERROR) -> Finding:
    """Return an error as a finding: its first part is what was found, the rest what to do.

    Parameters
    ----------
    error : BaseException
        Of headrace, whose messages say both.
    subject : str
        What it is about.
    level : str, default "error"
        How bad it is.
    """
    message, _, remedy = str(error).partition("; ")
    told = message.removeprefix(subject).lstrip(": ") or type(error).__name__
    return Finding(level, subject, told, remedy or "look at what it says")


def warn(findings: Iterable[Finding], stacklevel: int) -> None:
    """Warn of findings of that level, each as a ``PreflightWarning``.

    Parameters
    ----------
    findings : iterable of Finding
        Of one build.
    stacklevel : int
        As ``warnings.warn`` takes it, as seen by the caller.
    """
    for finding in findings:
        if finding.level == WARNING:
            warnings.warn(str(finding), PreflightWarning, stacklevel=stacklevel + 1)


def distinct(findings: Iterable[Finding]) -> Sequence[Finding]:
    """Return each finding once, the worst first."""
    return sorted(dict.fromkeys(findings), key=lambda finding: _LEVELS.index(finding.level))
