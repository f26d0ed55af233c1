"""Saying what a set-up waits for: one live line in a terminal, a line for each change elsewhere."""

from __future__ import annotations

import time
from typing import Any, Self

#: Least seconds between two plain lines: what changes quickly is told by its end.
PLAIN = 2.0


class Telling:
    """Tells people on standard error what is being waited for; used in ``with`` blocks; a later one repeats no line."""

    def __init__(self) -> None:
        self._console: Any = None
        self._status: Any = None
        self._told = ""
        self._at = -PLAIN

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._status is not None:
            self._status.stop()  # and takes its line away
            self._status, self._told = None, ""

    def say(self, text: str) -> None:
        """Tell what there is to wait for now.

        Parameters
        ----------
        text : str
            One line.
        """
        if text == self._told:
            return
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        if self._console.is_terminal and not self._console.is_jupyter:
            from rich.text import Text

            if self._status is None:
                self._status = self._console.status("")
                self._status.start()
            self._status.update(Text(text))
        elif time.monotonic() - self._at < PLAIN:
            return  # said by the next look, if it still holds then
        else:
            self._console.file.write(f"{text}\n")
            self._console.file.flush()
        self._told, self._at = text, time.monotonic()
