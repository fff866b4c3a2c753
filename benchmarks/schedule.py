"""List scheduling on identical nodes, simulated: what is ready begins on a node that is free, first
come, first served. So Ray places the jobs of `quantgate spread` where all nodes are alike: each
takes a whole one.

Without simpy, which would bring processes and resources: Python's graphlib says what is ready, and
a heap of what waits and one of what runs are the rest."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter


@dataclass(frozen=True)
class Job:
    """Begins once the jobs that it comes `after` have ended."""

    name: str
    seconds: float
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """`ends`: when each job ended."""

    nodes: int
    wall_s: float
    busy_s: float
    ends: dict[str, float]

    @property
    def utilisation(self) -> float:
        return self.busy_s / (self.nodes * self.wall_s)


def run(jobs: Collection[Job], nodes: int, urgent_first: bool = False) -> Run:
    """`urgent_first`: of what is ready, first what has the longest chain behind it. Raises
    ValueError for jobs that wait for each other."""
    todo = {job.name: job for job in jobs}
    order = {name: place for place, name in enumerate(todo)}  # of what is ready at the same time
    urgency = longest_from(jobs) if urgent_first else dict.fromkeys(todo, 0.0)
    sorter = _sorter(jobs)
    sorter.prepare()
    waiting: list[tuple[float, float, int, str]] = []
    running: list[tuple[float, str]] = []
    ends: dict[str, float] = {}
    now = 0.0
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(waiting, (-urgency[name], now, order[name], name))
        while waiting and len(running) < nodes:
            *_, name = heapq.heappop(waiting)
            heapq.heappush(running, (now + todo[name].seconds, name))
        now = running[0][0]
        while running and running[0][0] == now:  # all that end now, before any takes their nodes
            _, name = heapq.heappop(running)
            ends[name] = now
            sorter.done(name)
    return Run(nodes, now, sum(job.seconds for job in jobs), ends)


def longest_from(jobs: Collection[Job]) -> dict[str, float]:
    """Seconds of the longest chain that begins with each job, which it is part of."""
    todo = {job.name: job for job in jobs}
    longest = {job.name: job.seconds for job in jobs}
    for name in reversed([*_sorter(jobs).static_order()]):
        for before in todo[name].after:
            longest[before] = max(longest[before], todo[before].seconds + longest[name])
    return longest


def critical_path(jobs: Collection[Job]) -> list[Job]:
    """The longest chain of jobs that wait for each other: no number of nodes is faster than it."""
    longest = longest_from(jobs)
    path: list[Job] = []
    choices: Iterable[Job] = jobs
    while choices:
        path.append(max(choices, key=lambda job: longest[job.name]))
        choices = [job for job in jobs if path[-1].name in job.after]
    return path


def least_s(jobs: Collection[Job], nodes: int) -> float:
    """No schedule is faster: all nodes are busy throughout, or the critical path is as long."""
    chain = sum(job.seconds for job in critical_path(jobs))
    return max(sum(job.seconds for job in jobs) / nodes, chain)


def _sorter(jobs: Iterable[Job]) -> TopologicalSorter[str]:
    return TopologicalSorter({job.name: job.after for job in jobs})
