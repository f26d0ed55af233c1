"""The documentation says what the code says, and its examples run as they stand there."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.saying import ours
from tests.test_architecture import ALLOWED

DOCS = Path(__file__).parents[1] / "docs"

#: every block of Python in the pages, by page and number
EXAMPLES = {
    f"{page.stem}-{number}": block
    for page in sorted(DOCS.glob("*.md"))
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL), 1)
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_run_as_files(example, tmp_path):
    path = tmp_path / "example.py"
    path.write_text(EXAMPLES[example])
    environment = {**os.environ, "PYTHONWARNINGS": "error::FutureWarning", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, path.name], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in ours(done.stderr)


def test_the_page_of_states_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_states", DOCS / "make_states.py")
    make_states = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_states)
    assert (DOCS / "states.md").read_text() == make_states.page()


def test_the_design_lists_the_rooms_of_the_import_table():
    section = (DOCS / "design.md").read_text().partition("## Rooms")[2].partition("\n## ")[0]
    listed = {name.rstrip("/") for name in re.findall(r"^\| `([\w/]+)` \|", section, re.MULTILINE)}
    assert listed == set(ALLOWED) - {"_version", "__main__"}


def test_links_between_pages_lead_somewhere():
    for page in [*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
