"""Choosing the way a job runs, and running it once more where a machine did not get as far as the job."""

from __future__ import annotations

from typing import Protocol

from tests.lab.machine import here, qemu, uml
from tests.lab.machine.job import Job, LaneError, Result, say


class Lane(Protocol):
    """A way of running a job."""

    def prepare(self) -> None: ...
    def run(self, job: Job) -> Result: ...


# In the order in which "auto" tries them: a kernel of our own first, then this host's, then the slow one.
LANES: dict[str, Lane] = {"uml": uml, "here": here, "qemu": qemu}


def choose(name: str, profile: str = "lean") -> str:
    """The lane to use, made ready; LaneError if it, or for "auto" any, cannot be had."""
    if name != "auto":
        LANES[name].prepare()
        return name
    if profile == "full":
        return choose("qemu")
    reasons = []
    for candidate, lane in LANES.items():
        try:
            lane.prepare()
        except LaneError as reason:
            reasons.append(f"{candidate}: {reason}")
        else:
            for skipped in reasons:
                say(f"not in {skipped}")
            return candidate
    raise LaneError("; ".join(reasons))


def run(name: str, job: Job) -> Result:
    """Run the job in the lane of that name.

    A machine that stops before the job has begun says nothing about the job, so it gets a second try, and this is said.
    Whatever happens after that counts.
    """
    result = LANES[name].run(job)
    if result.status is None and not result.began:
        say(f"{name}: {result.trouble}; the job had not begun, so it is tried once more")
        result = LANES[name].run(job)
    return result
