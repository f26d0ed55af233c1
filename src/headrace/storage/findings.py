"""What a build has noticed about flows that load: no errors, but what their author will want to know."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace.errors import PreflightWarning

#: It may go wrong elsewhere, or costs much. Told by ``warnings``.
WARNING = "warning"
#: Worth knowing, and meant so, perhaps.
NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a build has noticed.

    Attributes
    ----------
    level : str
        ``"warning"`` or ``"note"``.
    subject : str
        What it is about: a flow and the way to a part of it, or a package.
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
    """Return each finding once, warnings first."""
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.level != WARNING)
