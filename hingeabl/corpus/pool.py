"""Ray: a cluster of this machine or a running one, and a pool of workers in it, any of which may die at any moment.

Plain actors, not Ray Data: a block of documents is a job with a number, the process that started it writes its part,
and a part that was written is done. So Ray need not guarantee that a job runs exactly once; it is simply run again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hingeabl.corpus.sources import INSTALL
from hingeabl.errors import UserError, first_line, need

JOBS_PER_WORKER = 2  # jobs of a worker: it works on one while the other waits
START_TRIES = 3  # tries to start Ray, which does not wait long: on a busy machine some fail
JOB_TRIES = 10  # of a job whose worker died; then it is given up
WORKER_WAIT_SECONDS = 600.0  # seconds without any worker until the pool is given up
Job = tuple[int, Any]  # its number and what the worker's `part` gets with it


def need_ray(address: str | None) -> Any:
    """The module ray, for the cluster at `address`, or with None or "" for one that is started here. Usage statistics
    are off. Raises UserError if it is not installed.

    Ray's ports are open to the network, and whoever reaches them may run anything. So a cluster that is started here
    asks for a secret token. Ray reads it when it is imported.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # no advice about a coming version
    if not address:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    return need("ray", f"ray is not installed, which this needs; {INSTALL}")


@contextlib.contextmanager
def joined(address: str | None, cpus: int, gpus: int) -> Iterator[Any]:
    """The module ray, joined to the cluster at `address`, or with None to one that is started here with so many CPUs
    and GPUs, and stopped at the end. What Ray prints meanwhile is dropped. Raises UserError if that fails."""
    ray = need_ray(address)
    options = {} if address else {"num_cpus": cpus, "num_gpus": gpus, "include_dashboard": False}
    for tries_left in reversed(range(START_TRIES)):
        try:
            ray.init(address or "local", log_to_driver=False, logging_level="error", **options)
            break
        except Exception as error:  # of many kinds, by version and cause
            ray.shutdown()
            if not tries_left:
                failure = "no Ray cluster is reached there" if address else "Ray cannot be started"
                option = f"--address {address}: " if address else ""
                raise UserError(f"{option}{failure} ({first_line(error)}); ray status tells more") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # Ray's own handler prints its stack
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            yield ray
        finally:
            ray.shutdown()


def worker_capacity(ray: Any, threads: int, on_gpu: bool) -> int:
    """How many workers the cluster has room for now: a GPU each, or as many CPUs as threads."""
    resources = ray.cluster_resources()
    return int(resources.get("GPU", 0) if on_gpu else resources.get("CPU", 0) // threads)


@dataclass(eq=False)
class WorkerHandle:
    """A worker in the pool: its actor, Ray's reference to its start (None once it is ready), and its jobs by Ray's
    references; it works on the first."""

    actor: Any
    loading: Any
    jobs: dict[Any, Job] = field(default_factory=dict)


@dataclass
class Pool:
    """The workers and their jobs. `abandoned` are the numbers of jobs that were given up, `deaths` counts the workers
    that died."""

    ray: Any
    make: Callable[[], Any]
    size: Callable[[], int]
    jobs: Iterator[Job]
    workers: list[WorkerHandle] = field(default_factory=list)
    retry_queue: deque[Job] = field(default_factory=deque)
    tries: Counter[int] = field(default_factory=Counter)
    abandoned: list[int] = field(default_factory=list)
    deaths: int = 0
    last_alive: float = field(default_factory=time.monotonic)  # when a worker was last alive

    def results(self) -> Iterator[tuple[int, Any]]:
        """Each job's number and result, as they come. Raises UserError if no worker starts."""
        while self.dispatch() or any(worker.jobs for worker in self.workers):
            self.check_workers_alive()
            waiting = {worker.loading: worker for worker in self.workers if worker.loading is not None}
            waiting |= {reference: worker for worker in self.workers for reference in itertools.islice(worker.jobs, 1)}
            if not waiting:  # there is room for no worker
                time.sleep(1)
                continue
            for reference in self.ray.wait(list(waiting), num_returns=1, timeout=5)[0]:
                yield from self.collect(waiting[reference], reference)

    def check_workers_alive(self) -> None:
        """Raise UserError if no worker has been alive for WORKER_WAIT_SECONDS seconds."""
        if any(worker.loading is None for worker in self.workers):
            self.last_alive = time.monotonic()
        elif time.monotonic() - self.last_alive > WORKER_WAIT_SECONDS:
            raise UserError(
                f"no worker could start in {WORKER_WAIT_SECONDS:.0f} seconds; ray status tells what the cluster lacks. "
                "The same command goes on where this stopped"
            )

    def dispatch(self) -> bool:
        """Start workers if there is room, and give jobs to those that are ready. Returns whether jobs are left."""
        job = self.next_job()
        while job and len(self.workers) < self.size():
            actor = self.make()
            self.workers.append(WorkerHandle(actor, actor.ready.remote()))
        for _ in range(JOBS_PER_WORKER):  # the first job of each before the second of any
            for worker in self.workers:
                if job and worker.loading is None and len(worker.jobs) < JOBS_PER_WORKER:
                    worker.jobs[worker.actor.part.remote(*job)] = job
                    job = self.next_job()
        if job:
            self.retry_queue.appendleft(job)
        return job is not None

    def next_job(self) -> Job | None:
        """A job that no worker has, None if there is none left."""
        return self.retry_queue.popleft() if self.retry_queue else next(self.jobs, None)

    def collect(self, worker: WorkerHandle, reference: Any) -> Iterator[tuple[int, Any]]:
        """Handle a finished reference: a job's result, which is yielded, or a worker that is ready or died."""
        try:
            result = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # which the worker raised
            raise error.cause from None
        except self.ray.exceptions.RayError:
            self.handle_worker_death(worker)
            return
        if reference == worker.loading:
            worker.loading = None
            return
        yield worker.jobs.pop(reference)[0], result

    def handle_worker_death(self, worker: WorkerHandle) -> None:
        """Queue the jobs of a worker that died, or cannot be reached, again, and remove it from the pool."""
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.kill(worker.actor)
        self.workers.remove(worker)
        self.deaths += 1
        for position, job in enumerate(worker.jobs.values()):
            self.tries[job[0]] += position == 0  # the others waited
            if self.tries[job[0]] < JOB_TRIES:
                self.retry_queue.append(job)
            else:
                self.abandoned.append(job[0])
