"""A real S3 server for all tests that want one: moto's, as a process of its own on a loopback port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

_RUNNING = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")


@dataclass(frozen=True)
class S3:
    """Where the server is, and how to get in."""

    endpoint: str
    pid: int

    @property
    def storage_options(self) -> dict[str, Any]:
        return {"key": "test-access-key", "secret": "test-secret-key", "endpoint_url": self.endpoint}

    def new_bucket(self) -> str:
        """The URL of a bucket that nobody else uses."""
        import s3fs

        bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        s3fs.S3FileSystem(**self.storage_options).mkdir(bucket)
        return f"s3://{bucket}"


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "AWS_DEFAULT_REGION": "us-east-1"},
    )
    assert server.stderr is not None
    # The server chooses a free port and says which: no race for it, and no polling.
    endpoint, said = None, []
    for line in server.stderr:
        said.append(line)
        if match := _RUNNING.search(line):
            endpoint = match[1]
            break
    drain = threading.Thread(target=server.stderr.read, daemon=True)
    drain.start()  # so that its log does not fill the pipe and stop it
    try:
        assert endpoint is not None, f"moto's server did not start: {''.join(said)}"
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
            environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
            yield S3(endpoint, server.pid)
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
        drain.join()
        server.stderr.close()
