"""Running somebody's code as a module, and telling what went wrong in it."""

from __future__ import annotations

import importlib
import linecache
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType

from headrace.errors import FlowError, HeadraceError, MissingModule

_PACKAGE = str(Path(__file__).parents[1])
#: Scripts that are being run, by where they lie.
_RUNNING: ContextVar[tuple[str, ...]] = ContextVar("_RUNNING", default=())


def run_script(where: str, files: Mapping[str, bytes], name: str) -> ModuleType:
    """Return the module of a script.

    Parameters
    ----------
    where : str
        For messages and tracebacks.
    files : mapping of str to bytes
        The script, and what lies beside it, by path.
    name : str
        Of the script.

    Raises
    ------
    MissingModule, FlowError
        If its code raises an error.
    """
    if where in _RUNNING.get():
        raise FlowError(
            f"the script {where} stores its own flow whenever it is loaded, so also each time that the flow is; "
            "let it do so below `if __name__ == '__main__':`"
        )
    module = ModuleType(re.sub(r"\W", "_", name.removesuffix(".py")))
    module.__file__ = where
    text = files[name].decode()
    linecache.cache[where] = len(text), None, text.splitlines(keepends=True), where
    sys.modules[module.__name__] = module
    token = _RUNNING.set((*_RUNNING.get(), where))
    try:
        with telling(where):
            exec(compile(text, where, "exec"), module.__dict__)
    finally:
        _RUNNING.reset(token)
    return module


@contextmanager
def telling(place: str) -> Iterator[None]:
    """Tell what went wrong in somebody's code, and at which line, as an error of ours.

    Parameters
    ----------
    place : str
        Where the code lies.
    """
    try:
        yield
    except HeadraceError:
        raise
    except ImportError as error:
        if "no known parent package" in str(error):
            raise FlowError(
                f"{place} is part of a package, because it imports from '.'; give its module instead of the file, "
                "e.g. package.module:FLOW"
            ) from error
        what = f"there is no module {place!r}" if error.name == place else f"{place} cannot be loaded: {error}"
        raise MissingModule(
            f"{what}{_line_of(error)}; install it, or call headrace where it can be imported", module=error.name
        ) from error
    except (Exception, SystemExit) as error:
        raise FlowError(f"{place} cannot be loaded: {type(error).__name__}: {error}{_line_of(error)}") from error


def _line_of(error: BaseException) -> str:
    """Where in the loaded code an error came from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame.filename)]
    return f" (line {frames[0].lineno} of {Path(frames[0].filename).name})" if frames else ""


def _is_ours(filename: str) -> bool:
    return filename.startswith((_PACKAGE, "<frozen importlib")) or filename == importlib.__file__
