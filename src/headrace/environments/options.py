"""Names of options: one that is unknown is told, with the one that was meant."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches

from headrace.errors import SetupError


def names_of(*takers: Callable[..., object]) -> list[str]:
    """Return the names of all that these take by name."""
    found = [each for taker in takers for each in inspect.signature(taker).parameters.values()]
    return [*dict.fromkeys(each.name for each in found if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY))]


def takes_any(taker: Callable[..., object]) -> bool:
    """Whether something takes options of any name, if only to hand them on."""
    return any(each.kind is each.VAR_KEYWORD for each in inspect.signature(taker).parameters.values())


def check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse an option that is not known.

    Parameters
    ----------
    given, known : iterable of str
        Names.
    where : str
        What has those that are known.

    Raises
    ------
    SetupError
        Says which one may have been meant, or which there are.
    """
    names = list(known)
    for name in given:
        if name not in names:
            close = get_close_matches(str(name), names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"
            raise SetupError(f"{where} has no option {name!r}; {hint}")
