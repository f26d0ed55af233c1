"""Running somebody's code as a module, and telling what went wrong in it."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType

from headrace.code.bundle import Bundle, bundle_of
from headrace.code.places import is_importable, place_of
from headrace.code.space import active
from headrace.errors import FlowError, HeadraceError, MissingModule

_PACKAGE = str(Path(__file__).parents[1])
#: Scripts that are being run, by where they lie.
_RUNNING: ContextVar[tuple[str, ...]] = ContextVar("_RUNNING", default=())


def bundle_of_script(where: str, files: Mapping[str, bytes], name: str) -> Bundle:
    """Return a script, and what it imports of what lies beside it, as a bundle.

    Parameters
    ----------
    where : str
        For messages.
    files : mapping of str to bytes
        The script, and what lies beside it, by path.
    name : str
        Of the script.

    Raises
    ------
    FlowError
        If it has the name of a module that is installed, which it would hide from its own imports.
    """
    module = module_of_script(name)
    if module in sys.stdlib_module_names or (is_importable(module) and place_of(module) is None):
        raise FlowError(f"the script {where} has the name of an installed module, {module!r}; rename it")
    return bundle_of({**files, f"{module}.py": files[name]}, module)


def module_of_script(name: str) -> str:
    """Return the name of the module that a script is."""
    return re.sub(r"\W", "_", name.removesuffix(".py"))


def run_script(where: str, bundle: Bundle | None, name: str) -> ModuleType:
    """Return the module of a script.

    Parameters
    ----------
    where : str
        For messages.
    bundle : Bundle
        The script, and what it imports.
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
    token = _RUNNING.set((*_RUNNING.get(), where))
    try:
        with active(bundle), telling(where):
            return importlib.import_module(module_of_script(name))
    finally:
        _RUNNING.reset(token)


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
