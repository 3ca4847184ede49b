"""What the journal is told beside the text."""

from __future__ import annotations

import logging
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from dsr_agent.service import journal, notify
from dsr_agent.service.journal import Kind, about, carrying, fields_of, of_actions, priority
from dsr_agent.service.narrator import Narrator
from dsr_agent.service.subjects import SubjectSort, sort_of, tunnel_of
from dsr_agent.state.actions import Problem
from dsr_agent.state.errors import NotYet
from dsr_agent.state.marks import TUNNEL_ADDRESS
from dsr_agent.state.model import ROUTES, THIS_HOST, AddressKey, Key, LinkKey, ModuleKey, SysctlKey, TunnelKey
from dsr_agent.state.report import PassCause
from tests.unit.service.reports import LOCAL, VIP1, VIP2, add, desired, key, report

DESIRED = desired(VIP1, VIP2)
DUMMY = AddressKey("dsr-ipip", TUNNEL_ADDRESS, 32)


@pytest.mark.parametrize(
    ("which", "sort", "tunnel"),
    [
        (key(VIP1), SubjectSort.VIP, None),
        (AddressKey("lo", LOCAL, 32), SubjectSort.VIP, None),
        (DUMMY, SubjectSort.TUNNEL_ADDRESS, "dsr-ipip"),
        (LinkKey("dsr-ipip"), SubjectSort.TUNNEL, "dsr-ipip"),
        (LinkKey("dsr-ipip.new"), SubjectSort.TUNNEL, "dsr-ipip"),
        (LinkKey("adopted0"), SubjectSort.TUNNEL, "adopted0"),
        (LinkKey("lo"), SubjectSort.DEVICE, None),
        (TunnelKey("dsr-ipip"), SubjectSort.TUNNEL, "dsr-ipip"),
        (SysctlKey("net/ipv4/conf/dsr-ipip/rp_filter"), SubjectSort.SYSCTL, "dsr-ipip"),
        (SysctlKey("net/ipv4/conf/eth0/arp_ignore"), SubjectSort.SYSCTL, None),
        (ModuleKey("ipip"), SubjectSort.MODULE, None),
        (ROUTES, SubjectSort.HOST, None),
        (THIS_HOST, SubjectSort.HOST, None),
    ],
    ids=str,
)
def test_what_a_key_is_about(which: Key, sort: SubjectSort, tunnel: str | None) -> None:
    assert sort_of(which, DESIRED) is sort
    assert tunnel_of(which, DESIRED) == tunnel


def test_fields_name_the_vip_or_the_tunnel() -> None:
    assert about(key(VIP1), DESIRED) == (("VIP", VIP1),)
    assert about(LinkKey("dsr-ipip"), DESIRED) == (("TUNNEL", "dsr-ipip"),)
    assert about(ROUTES, DESIRED) == ()


def test_actions_are_named_once_each_and_never_too_many() -> None:
    fields = of_actions([add(VIP1), add(VIP2)], DESIRED)
    assert fields == (("ACTION", "AddAddress"), ("VIP", VIP1), ("VIP", VIP2))

    many = of_actions([add(f"10.1.{number // 250}.{number % 250 + 1}") for number in range(5000)], DESIRED)
    assert len(many) <= 901


def test_a_repair_can_be_found_by_its_vip() -> None:
    lines = Narrator(DESIRED).tell(report(found_missing=(VIP1,)))
    [line] = lines
    assert line.kind is Kind.REPAIRED
    assert line.fields == (("ACTION", "AddAddress"), ("VIP", VIP1))


def test_each_of_many_vips_can_be_found_though_the_text_gives_a_number() -> None:
    addresses = tuple(f"10.1.0.{number}" for number in range(1, 100))
    [line] = Narrator(desired(*addresses)).tell(report(found_missing=addresses, wanted=desired(*addresses)))
    assert line.text.startswith("99 VIPs, each: ")
    assert all(("VIP", address) in line.fields for address in addresses)


def test_trouble_and_its_end_are_kinds_of_their_own() -> None:
    narrator = Narrator(DESIRED)
    trouble = narrator.tell(report(PassCause.RETRY, problems=(Problem(TunnelKey("dsr-ipip"), NotYet("no route")),)))
    assert [(line.kind, line.fields) for line in trouble] == [(Kind.TROUBLE, (("TUNNEL", "dsr-ipip"),))]
    assert [line.kind for line in narrator.tell(report(PassCause.RETRY))] == [Kind.IN_SYNC]


def test_every_kind_has_an_id_of_its_own_that_systemd_takes() -> None:
    assert len(set(Kind)) == len(list(Kind))
    assert all(len(kind) == 32 and int(kind, 16) for kind in Kind)


def test_every_kind_is_in_the_readme() -> None:
    readme = Path("README.md").read_text()
    assert [kind for kind in Kind if kind not in readme] == []


@pytest.mark.parametrize(
    ("level", "number"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2)],
)
def test_priorities_are_those_of_syslog(level: int, number: int) -> None:
    assert priority(level) == number


def record(text: Any = "one\ntwo", **extra: Any) -> logging.LogRecord:
    """A log record."""
    made = logging.LogRecord("dsr_agent", logging.WARNING, "", 0, text, None, None)
    made.__dict__.update(extra)
    return made


def test_lines_for_standard_error_carry_their_priority_each() -> None:
    assert journal.Prefixed("%(message)s").format(record()) == "<4>one\n<4>two"


def test_records_carry_their_fields() -> None:
    made = record(**carrying(Kind.REPAIRED, (("VIP", VIP1),)))
    assert fields_of(made) == (("MESSAGE_ID", Kind.REPAIRED.value), ("VIP", VIP1))
    assert fields_of(record()) == ()


def test_the_journal_is_known_by_the_file_behind_standard_error(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as file:
        found = os.fstat(file.fileno())
        right = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert journal.reads_stderr(right, file.fileno())
        assert not journal.reads_stderr(right, 0)
        assert not journal.reads_stderr({"JOURNAL_STREAM": "1:1"}, file.fileno())
        assert not journal.reads_stderr({}, file.fileno())


def journal_environ() -> dict[str, str]:
    """As in a service, whose standard error the journal reads."""
    found = os.fstat(2)
    return {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}


def test_without_the_library_lines_go_to_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "systemd", None)
    monkeypatch.setitem(sys.modules, "systemd.journal", None)
    assert isinstance(notify.log_handler(journal_environ()).formatter, journal.Prefixed)
    handler = notify.log_handler({})
    assert "WARNING one" in handler.format(record())


def test_with_the_library_the_journal_gets_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, ...]] = []
    library = types.ModuleType("systemd")
    part = types.ModuleType("systemd.journal")
    part.sendv = lambda *fields: sent.append(fields)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "systemd", library)
    monkeypatch.setitem(sys.modules, "systemd.journal", part)

    handler = notify.log_handler(journal_environ())
    assert handler.formatter, "without one, logging.basicConfig puts level and name before every text"
    handler.emit(record("back", **carrying(Kind.REPAIRED, (("VIP", VIP1),))))

    [fields] = sent
    assert fields[0] == "MESSAGE=back"
    assert "PRIORITY=4" in fields
    assert f"MESSAGE_ID={Kind.REPAIRED}" in fields
    assert f"VIP={VIP1}" in fields
