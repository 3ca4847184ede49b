"""Who listens in another network namespace, over a made-up ``/proc``."""

from __future__ import annotations

from pathlib import Path

from dsr_agent.kernel.namespaces import Elsewhere, listening

HEAD = "  sl  local_address rem_address   st\n"


def process(root: Path, pid: str, namespace: str, **tables: str) -> None:
    """A process in *namespace*, which sees these tables."""
    place = root / "proc" / pid
    (place / "ns").mkdir(parents=True)
    (place / "ns/net").symlink_to(f"net:[{namespace}]")
    (place / "net").mkdir()
    (place / "comm").write_text(f"name-{pid}\n")
    for name, lines in tables.items():
        (place / "net" / name).write_text(HEAD + lines)


def test_it_is_found_once_for_each_namespace_but_this_one(tmp_path: Path) -> None:
    udp = "   1: 00000000:0714 00000000:0000 07 0\n"
    process(tmp_path, "thread-self", "1")
    process(tmp_path, "5", "1", udp=udp)
    assert listening({"udp/1812"}, tmp_path) == {}
    process(tmp_path, "10", "3", tcp6="   1: 00:0031 00:0000 0A 0\n   2: 00:0032 00:0000 01 0\n")
    process(tmp_path, "9", "2", udp=udp)
    process(tmp_path, "12", "2", udp=udp)
    found = listening({"udp/1812", "tcp/49", "tcp/50", "udp/49"}, tmp_path)
    assert found == {
        "udp/1812": Elsewhere("udp/1812", "name-9 (process 9)"),
        "tcp/49": Elsewhere("tcp/49", "name-10 (process 10)"),
    }


def test_without_the_right_to_look_nothing_is_found(tmp_path: Path) -> None:
    assert listening({"udp/1812"}, tmp_path) == {}
