"""One thread that does one job after another, for a model that must not be shared between threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

Job = tuple[Callable[[], Any], "Future[Any]"]


class JobThread:
    """The thread and its queue of jobs. The caller limits the length of the queue."""

    def __init__(self) -> None:
        self.waiting: deque[Job] = deque()
        self.changed = threading.Condition()
        self.closed = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Append a job to the queue; the future will hold its result or exception."""
        future: Future[Any] = Future()
        with self.changed:
            self.waiting.append((work, future))
            self.changed.notify()
        return future

    def drop(self, future: Future[Any]) -> None:
        """Remove a job that has not begun, and free its data; one that has begun goes on."""
        future.cancel()
        with self.changed:
            self.waiting = deque(job for job in self.waiting if job[1] is not future)

    def close(self, timeout: float) -> None:
        """Empty the queue, and wait up to `timeout` seconds for the job that has begun."""
        with self.changed:
            self.closed = True
            for _, future in self.waiting:
                future.cancel()
            self.waiting.clear()
            self.changed.notify()
        self.thread.join(timeout)

    def _run(self) -> None:
        while job := self._next():
            _do(*job)
            del job  # else it would stay while the next one is waited for

    def _next(self) -> Job | None:
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.closed)
            return self.waiting.popleft() if self.waiting else None


def _do(work: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # whatever it is, the thread must go on
        future.set_exception(error)
    else:
        future.set_result(result)
