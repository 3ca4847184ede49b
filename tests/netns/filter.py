"""The packet filter of a test's namespace: read, written and meddled with by others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from dsr_agent.kernel.firewall import Firewall
from dsr_agent.kernel.guard_counts import GuardCounts
from dsr_agent.kernel.libnftables import Nftables
from dsr_agent.state.count import Count
from dsr_agent.state.table import FAMILY, NAME, Table, canonical

OURS = f"{FAMILY} {NAME}"


def need_tables() -> None:
    """Skip, with the name of what is missing, where no table of the guard can be had."""
    try:
        nftables = Nftables()
    except OSError as error:
        pytest.skip(f"needs libnftables.so.1: {error}")
    try:
        complaint = nftables.transaction([canonical({"add": {"table": {"family": FAMILY, "name": "probe"}}})])
    finally:
        nftables.close()
    if complaint:
        pytest.skip(f"this kernel has no nftables tables of family {FAMILY}: {complaint.splitlines()[0]}")
    nft(f"delete table {FAMILY} probe")


def nft(*commands: str) -> str:
    """Another process runs *commands*, in one transaction; what it printed."""
    found = _nft(*commands)
    assert found.returncode == 0, found.stderr
    return found.stdout


def can(*commands: str) -> bool:
    """Whether somebody's *commands* are done; not every kernel has everything."""
    return _nft(*commands).returncode == 0


def _nft(*commands: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["nft", "-f", "-"], input="\n".join(commands), capture_output=True, text=True, check=False)


def carry_out(steps: Iterable[str]) -> None:
    """Do the JSON *steps* in one transaction, in a process of its own: some make nftables end the process."""
    given = f'{{"nftables":[{",".join(steps)}]}}'
    found = subprocess.run(["nft", "-j", "-f", "-"], input=given, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def text() -> list[str]:
    """Our table as ``nft`` shows it, part by part, in no particular order and without what it has counted."""
    listing = subprocess.run(["nft", "-s", "list", "table", FAMILY, NAME], capture_output=True, text=True, check=True)
    head, *parts = listing.stdout.removesuffix("}\n").split("\n\n")
    first = head.split("\n\t", 1) if parts else [head]
    return sorted(part.strip() for part in (*first, *parts))


def handle() -> str:
    """The number of our table, which one that is made anew has not."""
    command = ["nft", "-a", "list", "table", FAMILY, NAME]
    listing = subprocess.run(command, capture_output=True, text=True, check=True)
    return listing.stdout.splitlines()[0].rpartition(" ")[2]


def table() -> Table | None:
    """Our table, read afresh."""
    firewall = Firewall(listen=False)
    try:
        return firewall.read().table
    finally:
        firewall.close()


def counts() -> dict[tuple[str, str], Count]:
    """What it has counted, as the agent reads it; which is what nftables reads, once nothing more is under way."""
    reader = GuardCounts()
    try:
        for _ in range(10):
            found, listed = reader.read() or {}, _counts_listed()
            if found == listed:
                break
        assert found == listed
        return found
    finally:
        reader.close()


def _counts_listed() -> dict[tuple[str, str], Count]:
    nftables = Nftables()
    try:
        objects, _ = nftables.listing(f"list table {OURS}")
    finally:
        nftables.close()
    found: dict[tuple[str, str], Count] = {}
    for item in objects:
        if counter := item.get("counter"):
            found[counter["name"], ""] = Count(counter["packets"], counter["bytes"])
        for element in item.get("set", {}).get("elem", ()):
            inside = element.get("elem", {}) if isinstance(element, dict) else {}
            if counter := inside.get("counter"):
                place = (item["set"]["name"], canonical(inside["val"]))
                found[place] = Count(counter["packets"], counter["bytes"])
    return found


class Somebody:
    """A process of its own, with a netlink socket of its own, that does what it is told and stays."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def does(self, *commands: str) -> None:
        """Run *commands*, in one transaction."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print("; ".join(commands), file=self._process.stdin, flush=True)
        assert self._process.stdout.readline() == "done\n"


_PROGRAM = """
import sys
from dsr_agent.kernel.libnftables import Nftables
nftables = Nftables()
for line in sys.stdin:
    print(nftables.run(line)[1] or "done", flush=True)
"""


@contextmanager
def somebody(*commands: str) -> Iterator[Somebody]:
    """Somebody who has run *commands*."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        found = Somebody(process)
        found.does(*commands)
        yield found
    finally:
        process.communicate()
