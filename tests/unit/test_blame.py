"""Who did it, over a made-up ``/proc``."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsr_agent.kernel.blame import who

HEADER = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two processes: 41 (chef) holds socket 900, 42 (bird) holds 901 and 902."""
    (tmp_path / "proc/net").mkdir(parents=True)
    rows = [(0, 41, 900), (0, 42, 901), (0, 42 + (7 << 22), 902), (9, 43, 903), (0, 44, 904), (0, 3 << 30, 905)]
    lines = [f"0000 {family} {port} 00000000 0 0 0 2 0 {inode}\n" for family, port, inode in rows]
    (tmp_path / "proc/net/netlink").write_text(HEADER + "".join(lines))
    for pid, name, inodes in (
        (41, "chef", [900]),
        (42, "bird", [901, 902]),
        (43, "else", [903]),
        (44, "other", []),
        (99, "late", [904, 905]),
    ):
        (tmp_path / f"proc/{pid}/fd").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/comm").write_text(name + "\n")
        for number, inode in enumerate(inodes):
            (tmp_path / f"proc/{pid}/fd/{number}").symlink_to(f"socket:[{inode}]")
    return tmp_path


@pytest.mark.parametrize(
    ("port", "said"),
    [
        (41, "chef (process 41)"),
        (42, "bird (process 42)"),
        (42 + (7 << 22), "bird (process 42)"),
        (44, "late (process 99)"),
        (43, "process 43, which has ended"),
        (77, "process 77, which has ended"),
        (77 + (7 << 22), "process 77, which has ended"),
        (3 << 30, "late (process 99)"),
        ((3 << 30) + 41, ""),
    ],
    ids=[
        "by its number",
        "another",
        "a library adds bits above",
        "number of another",
        "not rtnetlink",
        "gone",
        "a library's, gone",
        "chosen by the kernel",
        "chosen by the kernel, gone",
    ],
)
def test_the_process_behind_a_port(root: Path, port: int, said: str) -> None:
    """By the socket that it holds; the number of the port alone is only a guess."""
    assert who(port, root) == said


def test_without_the_right_to_look(tmp_path: Path) -> None:
    """Nothing is known, and nothing is claimed but the number."""
    assert who(41, tmp_path) == "process 41, which has ended"


def test_a_process_that_ends_while_it_is_looked_at(root: Path) -> None:
    """Its name cannot be read any more."""
    (root / "proc/41/comm").unlink()

    assert who(41, root) == "process 41, which has ended"
