"""A provider of credentials, as a user would have one in a module; what it gives is in a variable of each process."""

from __future__ import annotations

import json
import os
from typing import Any

VARIABLE = "TEST_VAULT"


def options() -> dict[str, Any]:
    return json.loads(os.environ[VARIABLE])
