"""An SSH server on the loopback interface, for clusters that start their processes through one.

It is a small one of asyncssh, which those who use ``distributed.SSHCluster`` have anyway. With ``SSHD=path/of/sshd``,
it is OpenSSH.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers import free_port, started

_SERVER = """
import asyncio, sys, asyncssh
from asyncio.subprocess import DEVNULL, PIPE

async def run(channel):
    command = f"exec {channel.command}"
    process = await asyncio.create_subprocess_exec("sh", "-c", command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)

    async def copy(source, target):
        while data := await source.read(65536):
            target.write(data)

    async def heed():
        try:
            await channel.stdin.read()
        except asyncssh.SignalReceived:
            process.kill()
        await channel.channel.wait_closed()  # as the client closes its connection
        if process.returncode is None:
            process.kill()

    heeding = asyncio.create_task(heed())
    await asyncio.gather(copy(process.stdout, channel.stdout), copy(process.stderr, channel.stderr))
    channel.exit(await process.wait())
    await heeding

async def serve(key, allowed):
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[key], authorized_client_keys=allowed, process_factory=run, encoding=None
    )
    print("listening on", server.get_port(), flush=True)
    await server.wait_closed()

asyncio.run(serve(*sys.argv[1:]))
"""
_CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/client.pub
StrictModes no
UsePAM no
PidFile none
MaxStartups 100
"""


@contextmanager
def ssh_server(folder: Path) -> Iterator[dict[str, Any]]:
    """Start one, and yield how ``asyncssh.connect`` gets in.

    Parameters
    ----------
    folder : Path
        An empty one, for keys.
    """
    asyncssh = pytest.importorskip("asyncssh")
    for name in ("host", "client"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(str(folder / name))
        key.write_public_key(str(folder / f"{name}.pub"))
        (folder / name).chmod(0o600)
    host, client, allowed = (str(folder / name) for name in ("host", "client", "client.pub"))
    if sshd := os.environ.get("SSHD"):
        port = free_port()
        (folder / "sshd_config").write_text(_CONFIG.format(port=port, folder=folder))
        server = started([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], r"listening on 127.0.0.1 port (\d+)")
    else:
        server = started([sys.executable, "-c", _SERVER, host, allowed], r"listening on (\d+)")
    with server as (port, _):
        # a list, for a text under a name with "key" in it would be taken for a secret
        yield {"port": int(port), "username": getpass.getuser(), "known_hosts": None, "client_keys": [client]}
