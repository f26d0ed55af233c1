"""The documentation says what the code says."""

import importlib.util
import re
from pathlib import Path

from tests.test_architecture import ALLOWED

DOCS = Path(__file__).parents[1] / "docs"


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
