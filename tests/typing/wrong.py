"""What checkers must find: the lines that are marked, and no others. Never run."""

from __future__ import annotations

import headrace as hr
from examples.typed import double, fetch, total

double("text")  # error: a text for a number
double()  # error: nothing for x
double(1, unknown=2)  # error: no such parameter
total(double(1))  # error: a number for a list
total(fetch.map(["a"]))  # error: bytes for numbers
double(fetch("a"))  # error: bytes for a number


@hr.task(retries="many")  # error: an option of the wrong type
def wrong_option() -> None: ...


@hr.task(retrys=2)  # error: no such option
def unknown_option() -> None: ...


@hr.flow(timeout="soon")  # error: an option of the wrong type
def wrong_flow() -> None: ...
