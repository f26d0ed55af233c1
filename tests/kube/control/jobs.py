"""The controller of Jobs: pods that run to their end, again if they fail, and go when their time is up."""

from __future__ import annotations

import asyncio
import datetime as dt
import time

from tests.kube.control.objects import Object, Refused, condition, is_over, is_ready, now
from tests.kube.control.store import Store

#: how long a Job waits before it tries again; a real one waits 10 s, 20 s, ...
_RETRY = 0.5


class Jobs:
    def __init__(self, store: Store) -> None:
        self._store = store
        #: job → its pods that were there; one that was deleted before its end has failed
        self._seen: dict[str, set[str]] = {}
        #: job → its pods that have failed
        self._failed: dict[str, set[str]] = {}
        self._retry: dict[str, float] = {}
        self._alarm: asyncio.TimerHandle | None = None

    def step(self) -> None:
        jobs = self._store.of("jobs")
        for job in list(jobs.objects.values()):
            if "deletionTimestamp" in job["metadata"]:
                continue
            if any(each["type"] in ("Complete", "Failed") for each in job["status"].get("conditions") or []):
                self._expire(job)
            else:
                self._drive(job)

    def _drive(self, job: Object) -> None:
        uid, spec = job["metadata"]["uid"], job["spec"]
        pods = self._store.of("pods").owned_by(job)
        here = {pod["metadata"]["uid"]: pod for pod in pods}
        succeeded = [pod for pod in pods if pod["status"].get("phase") == "Succeeded"]
        active = [pod for pod in pods if not is_over(pod) and "deletionTimestamp" not in pod["metadata"]]
        failed = self._failed.setdefault(uid, set())
        before = len(failed)
        failed |= {each for each, pod in here.items() if pod["status"].get("phase") == "Failed"}
        failed |= {each for each in self._seen.get(uid, set()) if each not in here}
        if len(failed) > before:
            self._later(uid, _RETRY)
        ended = self._end(job, succeeded, failed)
        if ended is None and not spec.get("suspend"):
            missing = min(spec["parallelism"], spec["completions"] - len(succeeded)) - len(active)
            leaving = len(here) - len(active) - len(succeeded) - len(failed & here.keys())
            if missing > 0 and not leaving and self._retry.get(uid, 0) <= time.monotonic():
                active += self._make_pods(job, missing)
        self._seen[uid] = {pod["metadata"]["uid"] for pod in active}
        counts = {"active": len(active), "ready": sum(map(is_ready, active))}
        counts |= {"succeeded": len(succeeded), "failed": len(failed)}
        status = {"startTime": job["status"].get("startTime", now()), **{key: n for key, n in counts.items() if n}}
        if ended:
            status["conditions"] = [ended]
            status.pop("active", None)
            if ended["type"] == "Complete":
                status["completionTime"] = now()
            for pod in active:
                self._store.delete(self._store.of("pods"), pod)
        self._store.set_status(self._store.of("jobs"), job, status)

    def _make_pods(self, job: Object, count: int) -> list[Object]:
        made = []
        try:
            for _ in range(count):
                pod = self._store.make_pod(job)
                made.append(pod)
                message = f"Created pod: {pod['metadata']['name']}"
                self._store.record(job, "Normal", "SuccessfulCreate", message, "job-controller")
        except Refused as error:
            self._later(job["metadata"]["uid"], 1.0)
            message = f"Error creating: {error.message}"
            self._store.record(job, "Warning", "FailedCreate", message, "job-controller")
        return made

    def _end(self, job: Object, succeeded: list[Object], failed: set[str]) -> Object | None:
        spec = job["spec"]
        if len(succeeded) >= spec["completions"]:
            self._store.record(job, "Normal", "Completed", "Job completed", "job-controller")
            return condition("Complete", True, "CompletionsReached", "Reached expected number of succeeded pods")
        reason = message = ""
        deadline, started = spec.get("activeDeadlineSeconds"), job["status"].get("startTime")
        if len(failed) > spec["backoffLimit"]:
            reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        elif deadline is not None and started is not None:
            left = _seconds_since(started)
            if left >= deadline:
                reason, message = "DeadlineExceeded", "Job was active longer than specified deadline"
            else:
                self._wake(deadline - left)
        if not reason:
            return None
        self._store.record(job, "Warning", reason, message, "job-controller")
        return condition("Failed", True, reason, message)

    def _expire(self, job: Object) -> None:
        ttl = job["spec"].get("ttlSecondsAfterFinished")
        if ttl is None:
            return
        left = ttl - _seconds_since(job["status"]["conditions"][0]["lastTransitionTime"])
        if left <= 0:
            self._store.delete(self._store.of("jobs"), job)
        else:
            self._wake(left)

    def _later(self, uid: str, seconds: float) -> None:
        self._retry[uid] = time.monotonic() + seconds
        self._wake(seconds)

    def _wake(self, seconds: float) -> None:
        """Look again then; one alarm, the first, is enough: whoever is early sets the next."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds + 0.01
        if self._alarm is None or self._alarm.when() > due or self._alarm.when() < loop.time():
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = loop.call_at(due, self._store.changed.set)


def _seconds_since(written: str) -> float:
    return (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(written)).total_seconds()
