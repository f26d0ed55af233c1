"""Print a pip constraint for each lower bound in a pyproject.toml: `make test-oldest` installs just these."""

import re
import sys
import tomllib
from itertools import chain
from pathlib import Path


def constraints(text: str) -> list[str]:
    """`name==bound` for each requirement `name>=bound` of the project and its extras."""
    project = tomllib.loads(text)["project"]
    requirements = list(chain(project["dependencies"], *project["optional-dependencies"].values()))
    found = (re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", requirement) for requirement in requirements)
    return sorted({f"{match[1]}=={match[2]}" for match in found if match})


if __name__ == "__main__":
    sys.stdout.write("\n".join(constraints(Path(sys.argv[1]).read_text())) + "\n")
