"""``python -m tests.kube``: a bench until Ctrl-C."""

from __future__ import annotations

import signal

from tests.kube.bench import ProcessBench


def main() -> None:
    with ProcessBench.started() as bench:
        print(
            f"export KUBECONFIG={bench.kubeconfig}\nimage={bench.image}\nlogs are in {bench.folder}; Ctrl-C ends it",
            flush=True,
        )
        ends = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # else the latter ends this process, and leaves the folder
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
