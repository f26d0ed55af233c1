"""Imported by each Python process in a pod of the bench, by its PYTHONPATH: it gives a process what a pod has.

* an address of its own: what is bound to all addresses is bound to ``$BENCH_ADDRESS``, so that many schedulers can
  have port 8786;
* the cluster's DNS: names in ``$BENCH_HOSTS``, a file like /etc/hosts that the kubelet keeps, resolve; other names of
  the cluster do not, and that is known at once;
* volumes: what is below a mount path of ``$BENCH_MOUNTS`` (lines PATH=SOURCE) is read and written below its source.

A process with BENCH_HOSTS alone (the operator) has DNS only.
"""

import os
import socket


def _have_address(own: str) -> None:
    socket.has_ipv6 = False  # else a server listens at [::], too
    bind = socket.socket.bind

    def bind_own(self, address):
        if self.family == socket.AF_INET and isinstance(address, tuple) and address[0] in ("", "0.0.0.0"):
            address = (own, address[1])
        return bind(self, address)

    socket.socket.bind = bind_own


def _have_names(path: str) -> None:
    namespace = os.environ.get("BENCH_NAMESPACE", "")
    known: tuple[object, dict[str, str]] = (None, {})

    def table() -> dict[str, str]:
        nonlocal known
        stat = os.stat(path)
        version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if version != known[0]:
            with open(path) as file:
                rows = [line.split() for line in file]
            known = (version, {name: row[0] for row in rows for name in row[1:]})
        return known[1]

    def resolved(host):
        name = host.decode() if isinstance(host, bytes | bytearray) else host
        if not isinstance(name, str) or name in ("", "localhost"):
            return host
        name = name.rstrip(".")
        found = table().get(name) or table().get(f"{name}.{namespace}")
        if found is None and name.endswith(".svc.cluster.local"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found or host

    getaddrinfo, gethostbyname = socket.getaddrinfo, socket.gethostbyname
    socket.getaddrinfo = lambda host, *args, **kwargs: getaddrinfo(resolved(host), *args, **kwargs)
    socket.gethostbyname = lambda host: gethostbyname(resolved(host))


_ONE_PATH = "stat lstat open listdir scandir access mkdir unlink remove rmdir chmod utime"
_TWO_PATHS = "rename replace link symlink"


def _have_volumes(mounts: dict[str, str]) -> None:
    import builtins
    import io
    import ssl

    def at_source(path):
        if not isinstance(path, str | os.PathLike):
            return path
        text = os.fspath(path)
        for mount, source in mounts.items():
            if isinstance(text, str) and f"{text}/".startswith(f"{mount}/"):
                return source + text[len(mount) :]
        return path

    def redirect(module, name: str, count: int = 1) -> None:
        function = getattr(module, name)

        def call(*args, **kwargs):
            return function(*map(at_source, args[:count]), *args[count:], **kwargs)

        call.__module__, call.__qualname__ = module.__name__, name  # it is pickled by its name, as before
        for features in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks, os.supports_effective_ids):
            if function in features:
                features.add(call)
        setattr(module, name, call)

    redirect(io, "open")
    builtins.open = io.open
    for name in _ONE_PATH.split():
        redirect(os, name)
    for name in _TWO_PATHS.split():
        redirect(os, name, 2)
    _have_certificates(ssl.SSLContext, at_source)


def _have_certificates(context, at_source) -> None:
    verify, chain = context.load_verify_locations, context.load_cert_chain  # they read files in C

    def load_verify_locations(self, cafile=None, capath=None, cadata=None):
        return verify(self, at_source(cafile), capath, cadata)

    def load_cert_chain(self, certfile, keyfile=None, password=None):
        return chain(self, at_source(certfile), at_source(keyfile), password)

    context.load_verify_locations, context.load_cert_chain = load_verify_locations, load_cert_chain


if "BENCH_ADDRESS" in os.environ:
    _have_address(os.environ["BENCH_ADDRESS"])
if "BENCH_HOSTS" in os.environ:
    _have_names(os.environ["BENCH_HOSTS"])
if os.environ.get("BENCH_MOUNTS"):
    _have_volumes(dict(line.split("=", 1) for line in os.environ["BENCH_MOUNTS"].splitlines()))
