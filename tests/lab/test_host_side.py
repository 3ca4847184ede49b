"""The host side of the lab: what it shows, what it counts, what it sends and what it takes back."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.lab import fleet, shares
from tests.lab.machine import images, job
from tests.lab.machine.console import BEGINS, ENDS, Console
from tests.lab.outcome import Outcome

PRINTED = b"noise of the boot\r\n" + BEGINS + b"\r\none\n\x1etwo\n" + ENDS + b"\r\nnoise of the end\n"


@pytest.mark.parametrize("size", range(1, len(PRINTED) + 1))
def test_only_the_job_is_shown_however_it_arrives(size: int) -> None:
    shown: list[bytes] = []
    log = io.BytesIO()
    console = Console(log, shown.append)
    for at in range(0, len(PRINTED), size):
        console.feed(PRINTED[at : at + size])
    console.flush()
    assert b"".join(shown) == b"one\n\x1etwo\n"
    assert log.getvalue() == PRINTED
    assert console.began
    assert console.ended


def test_what_a_dying_machine_said_last_is_shown() -> None:
    shown: list[bytes] = []
    console = Console(io.BytesIO(), shown.append)
    console.feed(BEGINS + b"\nlast words\x1ejob")
    console.flush()
    assert b"".join(shown) == b"last words\x1ejob"
    assert not console.ended


REPORT = '<testsuites><testsuite tests="{}" failures="{}" errors="{}" skipped="{}"/></testsuites>'


@pytest.mark.parametrize(
    ("report", "status", "counts"),
    [
        (REPORT.format(9, 0, 0, 2), 0, (7, 0, 2)),
        (REPORT.format(9, 2, 1, 2), 1, (4, 3, 2)),
        (REPORT.format(9, 0, 0, 0), 125, (9, 1, 0)),  # all passed, and then the machine died
        (REPORT.format(0, 0, 0, 0), 5, (0, 0, 0)),
        (REPORT.format(3, 0, 0, 0)[:-9], 0, (0, 1, 0)),
        ("", 0, (0, 1, 0)),
        (None, 0, (0, 1, 0)),
        (None, 124, (0, 1, 0)),
        (None, 5, (0, 0, 0)),
    ],
)
def test_what_is_counted(tmp_path: Path, report: str | None, status: int, counts: tuple[int, int, int]) -> None:
    path = tmp_path / "junit.xml"
    if report is not None:
        path.write_text(report)
    outcome = Outcome("slice")
    outcome.count(path, status)
    assert (outcome.passed, outcome.failed, outcome.skipped) == counts


def test_a_slice_adds_up_what_its_machines_report(tmp_path: Path) -> None:
    """A machine that dies is a failure, whatever the others say."""
    outcome, path = Outcome("slice"), tmp_path / "junit.xml"
    path.write_text(REPORT.format(9, 2, 1, 2))
    outcome.count(path, 1)
    outcome.count(tmp_path / "none.xml", 124)
    assert (outcome.passed, outcome.failed, outcome.skipped) == (4, 4, 2)
    assert outcome.notes == ["the machine's time ran out"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_module_is_in_one_share(count: int) -> None:
    modules = [*shares.SECONDS, "test_new", "test_newer"]
    found = shares.shares([*modules, *modules], count)
    assert sorted(module for share in found for module in share) == sorted(modules)
    loads = [sum(shares.SECONDS.get(module, shares.SHORT) for module in share) for share in found]
    assert max(loads) - min(loads) <= max([*shares.SECONDS.values(), shares.SHORT])


def test_the_longest_modules_are_there() -> None:
    there = {path.stem for path in Path(__file__).parent.glob("test_*.py")}
    assert shares.SECONDS.keys() <= there


def test_as_many_machines_at_once_as_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Two processors: an emulated machine and two others at once, or an emulated one and work of our own."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def machine(name: str, weight: float, *words: str) -> fleet.Run:
        return fleet.Run([*(words or ("sh", "-c", f"read x <{gate}; echo {name}; exit 3"))], tmp_path / name, weight)

    emulated = machine("emulated", fleet.EMULATED)
    fast = [machine(f"fast{number}", fleet.USER_MODE) for number in range(2)]
    late = machine("late", fleet.EMULATED, "echo", "late")
    runs = (emulated, *fast, late)
    opened = os.open(gate, os.O_RDWR)
    with fleet.Fleet() as ships:
        ships.busy = True
        ships.add(*runs)
        assert [run.runs for run in runs] == [True, False, False, False]
        ships.busy = False
        ships.add()
        assert [run.runs for run in runs] == [True, True, True, False]
        os.write(opened, b"\n" * 3)
        assert [ships.follow(run) for run in runs] == [3, 3, 3, 0]
    os.close(opened)
    assert capfdbinary.readouterr().out == b"emulated\nfast0\nfast1\nlate\n"


def test_a_job_as_it_is_sent(tmp_path: Path) -> None:
    words = ["printf", "%s|", "two words", "it's", "$HOME", "*"]
    job.pack(job.Job(words, environment={"GIVEN": "a b"}), "uml", tmp_path / "job.tar")
    with tarfile.open(tmp_path / "job.tar") as tar:
        names = tar.getnames()
        tar.extract("command.sh", tmp_path, filter="data")
    assert {"job.sh", "uml-init.sh", "repo/pyproject.toml", "repo/tests/run"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    done = subprocess.run(["sh", str(tmp_path / "command.sh")], capture_output=True, text=True, check=True)
    assert done.stdout == "two words|it's|$HOME|*|"


def test_a_result_as_it_comes_back(tmp_path: Path) -> None:
    result = tmp_path / "result.tar"
    job.empty_result(result)
    assert job.unpack(result, tmp_path, None) is None, "a machine that wrote nothing has no exit status"
    (tmp_path / "made/out").mkdir(parents=True)
    (tmp_path / "made/status").write_text("7\n")
    (tmp_path / "made/out/file").write_text("text")
    subprocess.run(["tar", "-cf", str(result), "-C", str(tmp_path / "made"), "status", "out"], check=True)
    assert job.unpack(result, tmp_path, tmp_path / "out") == 7
    assert (tmp_path / "out/file").read_text() == "text"


@pytest.mark.parametrize(
    ("status", "trouble", "exit_status"),
    [(0, "", 0), (3, "", 3), (None, "timed out after 5 s", 124), (None, "the machine stopped", 125), (None, "", 125)],
)
def test_no_result_is_never_a_success(status: int | None, trouble: str, exit_status: int) -> None:
    assert job.Result("uml", status, 1.0, trouble).exit_status == exit_status


def test_guests_get_pinned_packages_and_no_linters() -> None:
    requirements = images.guest_requirements()
    names = [line.split("==")[0] for line in requirements.splitlines() if "==" in line]
    assert {"pyroute2", "pydantic", "pytest", "hypothesis", "pytest-timeout"} <= set(names)
    assert not images.NOT_IN_GUESTS & set(names)
    assert requirements.count("--hash=sha256:") >= len(names)
    assert "://" not in images.LOCK.read_text()


def test_the_kernel_is_unpacked() -> None:
    packed = gzip.compress(b"\x7fELF the kernel") + bytes(4)
    header = bytearray(1024)
    header[0x1F1] = 1
    header[0x248:0x24C] = (16).to_bytes(4, "little")
    header[0x24C:0x250] = len(packed).to_bytes(4, "little")
    assert images.vmlinux(bytes(header) + bytes(16) + packed + b"what follows") == b"\x7fELF the kernel"
    with pytest.raises(job.LaneError, match="not known"):
        images.vmlinux(bytes(header) + bytes(16) + b"?" * 64)
