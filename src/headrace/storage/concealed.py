"""Foreign exceptions that say a secret: what of them may be shown.

Stores echo what they were asked, keys included, and Python shows what an error was raised from. So an exception in
whose text, arguments, notes or causes a secret stands is not a cause of ours; a stand-in without it is.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable

from headrace.redaction import SHORTEST, forms_of, know, without

#: What is not shorter is struck out of all that leaves the process, not only of what its storage says: a user's own
#: code may show it, too. Shorter ones may stand anywhere by chance.
UNMISTAKABLE = 8


class Concealed(Exception):
    """Stands for an exception of another package whose text holds secrets; tells that text without them."""


class Secrets:
    """The secrets of one storage.

    Parameters
    ----------
    texts : iterable of str
        As they stand in its options.

    Attributes
    ----------
    forms : tuple of str
        As they may stand in what others say, the longest first.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.forms: tuple[str, ...] = ()
        self.add(texts)

    def add(self, texts: Iterable[str]) -> None:
        """Know further ones, from now on."""
        texts = [text for text in texts if len(text) >= SHORTEST]
        know(*(text for text in texts if len(text) >= UNMISTAKABLE))
        forms = {form for text in texts for form in forms_of(text)}
        self.forms = tuple(sorted({*self.forms, *forms}, key=len, reverse=True))

    def cause(self, error: BaseException) -> BaseException:
        """Return what may stand as the cause of another error: the exception, or its stand-in.

        Parameters
        ----------
        error : BaseException
            Foreign.
        """
        if not any(form in told for told in _all_told(error) for form in self.forms):
            return error
        text = without(str(error), self.forms)
        found = Concealed(f"{type(error).__name__}: {text}" if text else type(error).__name__)
        return found.with_traceback(error.__traceback__)


def _all_told(error: BaseException) -> Iterable[str]:
    """What may be shown of an exception and of those behind it."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield from (str(each), repr(each), repr(vars(each)))
        yield from map(str, getattr(each, "__notes__", ()))
        waiting += [each.__cause__, each.__context__]
    yield "".join(traceback.format_exception(error))
