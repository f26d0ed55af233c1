"""The README, word for word: its example and the commands below it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def block(language: str, containing: str) -> str:
    """The only code block of a language that contains a text."""
    [found] = [code for code in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in code]
    return found


def test_the_example_and_its_commands(tmp_path):
    (tmp_path / "wordcount.py").write_text(block("python", "def wordcount"))
    said = []
    for line in block("sh", "headrace show flows#wordcount").splitlines():
        program, *rest = shlex.split(line, comments=False)
        command = [sys.executable, *(["-m", "headrace"] if program == "headrace" else []), *rest]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        said.append(done.stdout)
    example, flows, shown, run, runs = said
    assert "Success {'mill': 2, 'of': 6, 'river': 2, 'the': 6, 'weir': 2}" in example
    assert "wordcount" in flows
    assert "fetch" in shown
    assert "turns" in run
    assert runs.count("Success") == 2
