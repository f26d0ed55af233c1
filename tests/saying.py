"""What processes say, apart from what Dask logs meanwhile."""

from __future__ import annotations

import re

_RECORD = r"^\d{4}-\d\d-\d\d [\d:,]+ - "


def ours(text: str) -> str:
    """Return a text without the records of Dask's log.

    A worker whose heartbeat is under way when its cluster is closed logs that the scheduler is gone, with a traceback.
    """
    return re.sub(rf"{_RECORD}distributed\..*?(?={_RECORD}|\Z)", "", text, flags=re.MULTILINE | re.DOTALL)
