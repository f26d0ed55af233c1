"""A flow that lies in S3 runs on three worker pods, from a script and from a notebook."""

from __future__ import annotations

import json
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

import headrace as hr
from tests.environments import flows
from tests.waiting import until

SOURCE = """
import headrace as hr

storage = hr.Storage({url!r}, {options!r})
with hr.DaskEnvironment("kubernetes", n_workers=3, namespace={namespace!r}, image={image!r}) as env:
    run = env.execute(storage, "doubled", {{"n": 40}})
    env.client.wait_for_workers(3, timeout=200)
    print(run.state.label, run.result(), len(env.client.nthreads()), env.client.scheduler.address.split(":")[0])
"""


@pytest.fixture
def source(kube, namespace, s3):
    """What a user writes; the flow is in S3 already."""
    url = s3.new_url()
    storage = hr.Storage(url, dict(s3.storage_options))
    storage.add_flow(flows.doubled)
    storage.build()
    yield SOURCE.format(url=url, options=dict(s3.storage_options), namespace=namespace, image=kube.image)
    [record] = storage.runs()
    assert record.state == "Success"
    assert record.environment["cluster"] == "kubernetes"
    assert record.environment["namespace"] == namespace
    until(lambda: not kube.left_over(namespace))


def path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":".join(each for each in sys.path if each))


def test_from_a_script(source, tmp_path, monkeypatch):
    path(monkeypatch)
    (tmp_path / "script.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout == f"Success {sum(2 * x for x in range(40))} 3 tls\n", done.stderr
    assert ": waiting for " in done.stderr


def test_from_a_notebook(source, tmp_path, monkeypatch):
    path(monkeypatch)
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))
    for name, folder in {"PATH": "", "DATA_DIR": "", "RUNTIME_DIR": "runtime"}.items():
        monkeypatch.setenv(f"JUPYTER_{name}", str(tmp_path / folder))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, timeout=200, kernel_name="python3", cwd=str(tmp_path)).execute()
    printed = {each.name: each.text for each in notebook.cells[0].outputs if each.output_type == "stream"}
    assert printed["stdout"] == f"Success {sum(2 * x for x in range(40))} 3 tls\n"
    assert ": waiting for " in printed["stderr"]
