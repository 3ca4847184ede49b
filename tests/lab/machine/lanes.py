"""Choosing the way a job runs."""

from __future__ import annotations

from typing import Protocol

from tests.lab.machine import qemu, uml
from tests.lab.machine.job import Job, Result


class Lane(Protocol):
    """A way of running a job."""

    def prepare(self) -> None: ...
    def run(self, job: Job) -> Result: ...


LANES: dict[str, Lane] = {"uml": uml, "qemu": qemu}


def run(name: str, job: Job) -> Result:
    """Run the job in the lane of that name."""
    lane = LANES["uml" if name == "auto" else name]
    lane.prepare()
    return lane.run(job)
