# ruff: noqa
"""Imported by every Python process that the process kubelet starts (via PYTHONPATH).

It gives a plain local process the two things a pod would have:
 * its own IP: a bind to the wildcard address becomes a bind to $POD_IP (a 127/8 address),
   so that many `dask-scheduler --host 0.0.0.0` can all own port 8786/8787;
 * cluster DNS: names in $PODSHIM_HOSTS (an /etc/hosts-format file kept by the kubelet)
   resolve, e.g. foo-scheduler.default.svc.cluster.local.
A process with PODSHIM_HOSTS but no POD_IP (the operator, or an "in-cluster" client) gets DNS only.
"""

import os
import socket

_ip = os.environ.get("POD_IP")
_hosts = os.environ.get("PODSHIM_HOSTS")

if _ip:
    socket.has_ipv6 = False  # tornado then opens no [::] listener
    _bind = socket.socket.bind

    def bind(self, address):
        if self.family == socket.AF_INET and isinstance(address, tuple) and address[0] in ("", "0.0.0.0"):
            address = (_ip, address[1])
        return _bind(self, address)

    socket.socket.bind = bind

if _hosts:
    _cache = (None, {})

    def _lookup(name):
        global _cache
        if isinstance(name, (bytes, bytearray)):
            name = name.decode()
        if not name or "." not in name:
            return None
        try:
            st = os.stat(_hosts)
            key = (st.st_mtime_ns, st.st_size, st.st_ino)
            if key != _cache[0]:
                table = {}
                with open(_hosts) as f:
                    for line in f:
                        parts = line.split("#")[0].split()
                        for n in parts[1:]:
                            table[n] = parts[0]
                _cache = (key, table)
        except OSError:
            return None
        return _cache[1].get(name.rstrip("."))

    _getaddrinfo, _gethostbyname = socket.getaddrinfo, socket.gethostbyname

    def getaddrinfo(host, *args, **kwargs):
        return _getaddrinfo(_lookup(host) or host, *args, **kwargs)

    def gethostbyname(host):
        return _gethostbyname(_lookup(host) or host)

    socket.getaddrinfo, socket.gethostbyname = getaddrinfo, gethostbyname
