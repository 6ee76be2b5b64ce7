"""Ray: a cluster of this machine or one that runs, and a pool of workers in it, any of which may die at any moment.

Plain actors, not Ray Data: a block of documents is a job with a number, the process that started it writes its part,
and a part that was written is done. So nothing has to be exactly once within Ray, and a job is simply given out again.
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
from hingeabl.errors import UserError, first_line

AHEAD = 2  # jobs that a worker has: one is done while the other waits
STARTS = 3  # tries to start Ray, which does not wait long: on a busy machine some of them fail
TRIES = 10  # of a job whose worker died; then it is given up
PATIENCE = 600.0  # seconds without any worker until the pool is given up
Job = tuple[int, Any]  # its number and what the worker's `part` gets with it


def need_ray(address: str | None) -> Any:
    """The module ray, for the cluster at `address`, or with None for one that is started here. Nothing is reported to
    its makers. Raises UserError if it is not installed.

    Ray's ports are open to the network, and who reaches them may run anything. So a cluster that is started here asks
    for a token, which no one else knows. Ray reads it when it is imported.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # no advice about a coming version
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError:
        raise UserError(f"ray is not installed, which this needs; {INSTALL}") from None
    return ray


@contextlib.contextmanager
def joined(address: str | None, cpus: int, gpus: int) -> Iterator[Any]:
    """The module ray, joined to the cluster at `address`, or with None to one that is started here with so many CPUs
    and GPUs, and stopped at the end. What Ray prints meanwhile is dropped. Raises UserError if that fails."""
    ray = need_ray(address)
    options = {} if address else {"num_cpus": cpus, "num_gpus": gpus, "include_dashboard": False}
    for tries_left in reversed(range(STARTS)):
        try:
            ray.init(address or "local", log_to_driver=False, logging_level="error", **options)
            break
        except Exception as error:  # of many kinds, by version and cause
            ray.shutdown()
            if not tries_left:
                what = f"--address {address}: no Ray cluster is reached there" if address else "Ray cannot be started"
                raise UserError(f"{what} ({first_line(error)}); ray status tells more") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # Ray's own handler prints its stack
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            yield ray
        finally:
            ray.shutdown()


def places(ray: Any, threads: int, on_gpu: bool) -> int:
    """How many workers the cluster has room for now: a GPU each, or as many CPUs as threads."""
    resources = ray.cluster_resources()
    return int(resources.get("GPU", 0) if on_gpu else resources.get("CPU", 0) // threads)


@dataclass(eq=False)
class Hand:
    """A worker in the pool: its actor, whether it is ready, and its jobs by Ray's references, the first being done."""

    actor: Any
    loading: Any
    jobs: dict[Any, Job] = field(default_factory=dict)


@dataclass
class Pool:
    """The workers and their jobs. `lost` are the numbers of the jobs that were given up, `deaths` counts workers."""

    ray: Any
    make: Callable[[], Any]
    size: Callable[[], int]
    jobs: Iterator[Job]
    hands: list[Hand] = field(default_factory=list)
    again: deque[Job] = field(default_factory=deque)
    tries: Counter[int] = field(default_factory=Counter)
    lost: list[int] = field(default_factory=list)
    deaths: int = 0
    seen: float = field(default_factory=time.monotonic)  # when a worker was last alive

    def results(self) -> Iterator[tuple[int, Any]]:
        """Each job's number and what it gave, as they come. Raises UserError if no worker starts."""
        while self.give_out() or any(hand.jobs for hand in self.hands):
            self.watch()
            waiting = {hand.loading: hand for hand in self.hands if hand.loading is not None}
            waiting |= {reference: hand for hand in self.hands for reference in itertools.islice(hand.jobs, 1)}
            if not waiting:  # there is room for no worker
                time.sleep(1)
                continue
            for reference in self.ray.wait(list(waiting), num_returns=1, timeout=5)[0]:
                yield from self.take(waiting[reference], reference)

    def watch(self) -> None:
        """Raise UserError if there has been no worker for long."""
        if any(hand.loading is None for hand in self.hands):
            self.seen = time.monotonic()
        elif time.monotonic() - self.seen > PATIENCE:
            raise UserError(
                f"no worker could start in {PATIENCE:.0f} seconds; ray status tells what the cluster lacks. The same "
                "command goes on where this stopped"
            )

    def give_out(self) -> bool:
        """Start workers where there is room, and give jobs to those that are ready; whether jobs wait."""
        job = self.next_job()
        while job and len(self.hands) < self.size():
            actor = self.make()
            self.hands.append(Hand(actor, actor.ready.remote()))
        for _ in range(AHEAD):  # the first job of each before the second of any
            for hand in self.hands:
                if job and hand.loading is None and len(hand.jobs) < AHEAD:
                    hand.jobs[hand.actor.part.remote(*job)] = job
                    job = self.next_job()
        if job:
            self.again.appendleft(job)
        return job is not None

    def next_job(self) -> Job | None:
        """A job that nobody has, None if there is none left."""
        return self.again.popleft() if self.again else next(self.jobs, None)

    def take(self, hand: Hand, reference: Any) -> Iterator[tuple[int, Any]]:
        """What a reference gave: a job's result, a worker that is ready, or one that died."""
        try:
            result = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # which the worker raised
            raise error.cause from None
        except self.ray.exceptions.RayError:
            self.bury(hand)
            return
        if reference == hand.loading:
            hand.loading = None
            return
        yield hand.jobs.pop(reference)[0], result

    def bury(self, hand: Hand) -> None:
        """Take the jobs of a worker that died, or cannot be reached, and forget it."""
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.kill(hand.actor)
        self.hands.remove(hand)
        self.deaths += 1
        for position, job in enumerate(hand.jobs.values()):
            self.tries[job[0]] += position == 0  # the others waited
            if self.tries[job[0]] < TRIES:
                self.again.append(job)
            else:
                self.lost.append(job[0])
