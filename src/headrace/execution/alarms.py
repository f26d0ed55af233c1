"""What Dask's scheduler logs of a worker that dies, without what is not so.

A batch counts as failed for good by then, and a value as data that cannot be made again (see ``execution.scheduler``).
Dask says so, as errors, on the console of whoever has a local cluster. But the run makes them again; and if it cannot,
it says so itself. What Dask says of others' tasks and data, and of runs that are over, stays.
"""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Callable
from contextlib import suppress

#: Who logs it.
LOGGER = logging.getLogger("distributed.scheduler")
_FAILED = "Task %s marked as failed because %d workers died"
_LOST = re.compile(r"lose scattered data, which can't be recovered: (\{.*\})", re.DOTALL)


class FalseAlarms(logging.Filter):
    """Takes false alarms out of a scheduler's log.

    Parameters
    ----------
    is_made_again : callable
        Whether what has a key is made again, if it is lost.
    """

    def __init__(self, is_made_again: Callable[[object], bool]) -> None:
        super().__init__()
        self._is_made_again = is_made_again

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether there is something true in a record, which tells no more than that then."""
        text = str(record.msg)
        if text.startswith(_FAILED) and isinstance(record.args, tuple):
            return not self._is_made_again(record.args[0])
        if (match := _LOST.search(text)) is not None:
            with suppress(ValueError, SyntaxError):  # keys that cannot be read back are nobody's of ours
                lost = ast.literal_eval(match[1])
                true = {key for key in lost if not self._is_made_again(key)}
                if len(true) < len(lost):
                    record.msg = text.replace(match[1], repr(true))
                return bool(true)
        return True
