"""Files that are not there, not readable, not text, not TOML, or not files: refused by name, and never waited for."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from dsr_agent.config import files, load
from dsr_agent.state.errors import ConfigError
from tests.unit.config.configs import MAIN, VIP, refusals, refused, write

pytestmark = pytest.mark.timeout(30)
NOT_REGULAR = ": is not a regular file (a pipe, socket or device): name a regular file"
TOO_LARGE = ": is larger than 16 MiB, which cannot be meant: nothing was read"


def test_no_file(tmp_path: Path) -> None:
    assert refusals(tmp_path / MAIN) == [f"{MAIN}: there is no such file: write one, or name another with --config"]


def test_no_directory(tmp_path: Path) -> None:
    assert refusals(tmp_path / MAIN / "x.toml")[0].startswith("x.toml: there is no such file")
    write(tmp_path, "")
    assert refusals(tmp_path / MAIN / "x.toml")[0] == "x.toml: cannot be read: Not a directory"


def test_without_the_file_its_drop_ins_are_still_looked_at(tmp_path: Path) -> None:
    write(tmp_path, "", {"dsr-agent.d/a.toml": VIP.replace("192", "127")}).unlink()

    assert [said.partition(" ")[0] for said in refusals(tmp_path / MAIN)] == [
        "dsr-agent.toml:",
        "dsr-agent.d/a.toml:2:",
    ]


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / MAIN).mkdir()

    assert refusals(tmp_path / MAIN) == [f"{MAIN}: is a directory: name a file"]
    assert refusals(Path("/")) == ["/: is a directory: name a file"]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MAIN)

    assert refusals(tmp_path / MAIN) == [MAIN + NOT_REGULAR]


def test_a_pipe_that_takes_the_place_of_the_file_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regular = os.stat(write(tmp_path, VIP))
    (tmp_path / MAIN).unlink()
    os.mkfifo(tmp_path / MAIN)
    monkeypatch.setattr(os, "stat", lambda path: regular)

    assert refusals(tmp_path / MAIN) == [MAIN + NOT_REGULAR]


def test_a_socket_and_a_device(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / MAIN))
        assert refusals(tmp_path / MAIN) == [MAIN + NOT_REGULAR]
    assert refusals(Path("/dev/zero")) == ["zero" + NOT_REGULAR]


def test_symbolic_links(tmp_path: Path) -> None:
    link = tmp_path / MAIN
    link.symlink_to("elsewhere\n.toml")
    assert refusals(link) == [f"{MAIN}: is a symbolic link to elsewhere\\n.toml, which does not exist"]

    (tmp_path / "elsewhere\n.toml").write_text(VIP)
    assert len(load(link, environ={}).settings.vip) == 1

    link.unlink()
    link.symlink_to(MAIN)
    assert refusals(link) == [f"{MAIN}: cannot be read: Too many levels of symbolic links"]


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As root nothing is forbidden, so the system call is made to say so.
    def forbidden(*args: Any) -> int:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, VIP)
    monkeypatch.setattr(os, "open", forbidden)

    assert refusals(path) == [f"{MAIN}: may not be read by user id {os.geteuid()}: make it readable (chmod, chgrp)"]


def test_an_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> int:
        raise OSError(5, "Input/output error")

    path = write(tmp_path, VIP)
    monkeypatch.setattr(os, "open", broken)

    assert refusals(path) == [f"{MAIN}: cannot be read: Input/output error"]


def test_an_enormous_file_is_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "")
    os.truncate(path, 1 << 40)
    monkeypatch.delattr(os, "open")

    assert refusals(path) == [MAIN + TOO_LARGE]


def test_a_file_that_was_enormous_after_all_is_read_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "")
    os.truncate(path, 1 << 43)  # more than there is memory
    monkeypatch.setattr(files, "_check", lambda status: None)
    assert refusals(path) == [MAIN + TOO_LARGE]


def test_the_largest_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "#" * 100)
    monkeypatch.setattr(files, "LARGEST", 99)
    assert len(refusals(path)) == 1
    monkeypatch.setattr(files, "LARGEST", 100)
    load(path, environ={})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x7fELF\x02\x01\x01\x00\xff\xfe", ":1: is not UTF-8 text (byte 0xff): save it as UTF-8"),
        (b"# ok\n# gr\xf6\xdfe\n", ":2: is not UTF-8 text (byte 0xf6): save it as UTF-8"),
        (VIP.encode("utf-16"), ":1: is not UTF-8 text (byte 0xff): save it as UTF-8"),
        (b"\x00" * 4096, None),
        (b"\x7fELF\x02\x01\x01", None),
        (b"[" * 200_000, None),
        (b"vip = " + b"[" * 200_000, ": is nested too deeply: a file of this agent needs two levels"),
        (b"vip = " + b"{a=" * 200_000, ": is nested too deeply: a file of this agent needs two levels"),
        (b"vip = " + b"9" * 5000, ": holds a number of thousands of digits: write a smaller one"),
        (b"[[vip]]\nname = 0x" + b"f" * 5000, None),
        (b"a." * 2000 + b"a = 1", None),
        (b"[" + b"a." * 2000 + b"a]\n", None),
        (b"[agent." + b"a." * 2000 + b"a]\n", None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_configuration_at_all(tmp_path: Path, content: bytes, said: str | None) -> None:
    path = tmp_path / MAIN
    path.write_bytes(content)

    found = refusals(path)

    assert found
    assert all(len(line) < 400 and line.isprintable() for line in found)
    if said:
        assert found == [MAIN + said]


def test_every_place_where_a_good_file_can_be_cut_off(tmp_path: Path) -> None:
    text = '[[vip]]\naddress = "192.0.2.10"\nservices = [\n  "udp/1812",\n]\nname = """\na"""\n'
    accepted = set()
    for end in range(len(text)):
        path = write(tmp_path, text[:end])
        try:
            load(path, environ={})
        except ConfigError:
            continue
        accepted.add(text[:end].strip())
    # Nothing yet; the VIP; the VIP with its services; with its name. Never half a value.
    lines = text.strip().split("\n")
    assert accepted == {"", "\n".join(lines[:2]), "\n".join(lines[:5]), "\n".join(lines)}


@pytest.mark.parametrize("mark", ["\ufeff", ""])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_order_mark_and_line_ends_of_other_systems(tmp_path: Path, mark: str, end: str) -> None:
    path = write(tmp_path, (mark + "# comment\n" + VIP).replace("\n", end))
    assert len(load(path, environ={}).settings.vip) == 1

    path = write(tmp_path, (mark + "# comment\n" + VIP + 'nam = "x"\n').replace("\n", end))
    assert refusals(path) == [f'{MAIN}:4: vip[0].nam: unknown key: did you mean "name"?']


def test_drop_ins_that_cannot_be_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, VIP, {"dsr-agent.d": ""})
    assert refusals(path) == ["dsr-agent.d: is not a directory, and it is where drop-ins are looked for"]

    def forbidden(*args: Any) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", forbidden)
    assert refusals(path) == [
        "dsr-agent.d: cannot be listed (Permission denied), and it is where drop-ins are looked for"
    ]


def test_drop_ins_that_are_no_files(tmp_path: Path) -> None:
    path = write(tmp_path, VIP.replace("192", "127"), {"dsr-agent.d/d.toml": "[["})
    (tmp_path / "dsr-agent.d" / "a.toml").mkdir()
    os.mkfifo(tmp_path / "dsr-agent.d" / "b.toml")
    (tmp_path / "dsr-agent.d" / "c.toml").symlink_to("nowhere")

    assert [said.partition(": ")[::2] for said in refusals(path)] == [
        ("dsr-agent.d/a.toml", "is a directory: name a file"),
        ("dsr-agent.d/b.toml", NOT_REGULAR[2:]),
        ("dsr-agent.d/c.toml", "is a symbolic link to nowhere, which does not exist"),
        (
            "dsr-agent.d/d.toml:1",
            "not valid TOML in `[[`: the file ends in the middle of this: a key is made of letters, digits, _ and -",
        ),
        (f"{MAIN}:2", 'vip[0].address: found "127.0.2.10", a loopback address: write the address that clients send to'),
    ]


def test_a_file_name_that_would_move_the_cursor(tmp_path: Path) -> None:
    name = os.fsdecode(b"dsr-agent.d/\x1b[2J\xff.toml")

    (said,) = refused(tmp_path, "", {name: "["})

    assert said.startswith("dsr-agent.d/\\x1b[2J\\xff.toml:1: not valid TOML")
