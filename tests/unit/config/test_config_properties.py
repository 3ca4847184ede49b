"""Whatever is in the file: it loads, or it is refused in our own words. What loads means one address for each VIP."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsr_agent.config import load
from dsr_agent.config.environment import VARIABLES
from dsr_agent.config.refusals import KEYS
from dsr_agent.state.errors import ConfigError
from dsr_agent.state.marks import owns_address
from tests.unit.config.configs import JARGON, MAIN, loaded, write

# No deadline: a busy machine is no defect of the configuration.
patient = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
WORDS = ["ipip", "gre", "gue", "any", "auto", "lo", "debug", "dsr-ipip", "udp/1812", "127.0.0.1:9177", "[::1]:1"]
WORDS += ["192.0.2.10", "192.0.2.10/32", "10.1.0.0/24", "2001:db8::1", "::ffff:1.2.3.4", "fe80::1%x", "/", "%", ""]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def toml(value: Any) -> str:
    """*value* as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(str(key))} = {toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f") if value.isascii() else '"' + value + '"'
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


# Text that is near to something, and text that is near to nothing.
texts = st.one_of(
    st.sampled_from(WORDS),
    st.text("0123456789.:/[]%-x ", max_size=12),
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\\x7f'), max_size=20),
)
scalars = st.one_of(
    texts, st.booleans(), st.integers(), st.integers(-(10**400), 10**400), st.floats(), st.integers(0, 70)
)
garbage = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from([key for section in KEYS.values() for key in section])
tables = st.dictionaries(keys | texts, garbage | st.lists(texts, max_size=3), max_size=5)
sections = st.sampled_from([*KEYS, "vips", "Agent", "_build_sources"])
files = st.dictionaries(sections | texts, tables | st.lists(tables, max_size=3) | garbage, max_size=4)


def outcome(path: Path, environ: dict[str, str]) -> object:
    """What loading comes to: the value, or what is said about it, each line fit for a terminal."""
    try:
        found = load(path, environ=environ)
    except ConfigError as error:
        for line in error.refusals:
            assert line.isprintable()
            assert len(line) < 1000
            assert line.encode()
        return error.refusals
    assert len(found.desired.addresses) == len(found.settings.vip)
    return found


def jargon_in(said: object, written: str) -> list[str]:
    """The jargon in refusals that was not in what was written."""
    lines = said if isinstance(said, tuple) else ()
    return [line for line in lines if JARGON.search(line) and not JARGON.search(written)]


@patient
@given(files, files)
def test_any_structure_loads_or_is_refused_always_the_same(
    directory: Path, main: dict[str, Any], drop_in: dict[str, Any]
) -> None:
    text, more = ("\n".join(f"{toml(key)} = {toml(value)}" for key, value in d.items()) for d in (main, drop_in))
    path = write(directory, text, {"dsr-agent.d/a.toml": more})

    first = outcome(path, {})

    assert outcome(path, {}) == first
    assert not jargon_in(first, text + more)


@patient
@given(
    st.dictionaries(
        st.sampled_from([*VARIABLES, "DSR_AGENT_X"]),
        (garbage | tables | st.lists(tables, max_size=2)).map(json.dumps) | texts,
        max_size=3,
    )
)
def test_any_environment_loads_or_is_refused_always_the_same(directory: Path, environ: dict[str, str]) -> None:
    path = write(directory, '[agent]\narp = "ignore"\n', {"dsr-agent.d/a.toml": ""})

    first = outcome(path, environ)

    assert outcome(path, environ) == first
    assert not jargon_in(first, repr(environ))


GOOD = """
[agent]
log_level = "info"
[[tunnel]]
encapsulation = "gre"
load_balancers = [
  "10.1.0.5", # one
]
[[vip]]
address = "192.0.2.10"
services = ["udp/1812"]
"""
edits = st.tuples(
    st.integers(0, len(GOOD)), st.integers(0, 5), st.sampled_from([*"\n[]\"'{}=#.,\\ a0\x00\xe9"]) | st.just("")
)


@patient
@given(st.lists(edits, min_size=1, max_size=3))
def test_any_typing_error_loads_or_is_refused(directory: Path, made: list[tuple[int, int, str]]) -> None:
    text = GOOD
    for at, removed, added in made:
        text = text[:at] + added + text[at + removed :]

    said = outcome(write(directory, text, {"dsr-agent.d/a.toml": ""}), {})

    assert not jargon_in(said, text)


@patient
@given(st.binary(max_size=40))
def test_any_bytes_load_or_are_refused(directory: Path, content: bytes) -> None:
    (directory / MAIN).write_bytes(content)
    (directory / "dsr-agent.d" / "a.toml").unlink(missing_ok=True)

    assert not jargon_in(outcome(directory / MAIN, {}), "")


four = st.integers(int(IPv4Network("192.0.2.0/24")[0]), int(IPv4Network("192.0.2.0/24")[-1]))
six = st.integers(0, 2**64).map(lambda low: int(IPv6Network("2001:db8::/32")[0]) + low)
vips = st.lists(
    st.fixed_dictionaries(
        {"address": (four | six).map(ip_address).map(str)},
        optional={
            "device": st.sampled_from(["lo", "dummy0", "fifteen-letters"]),
            "tunnels": st.lists(st.sampled_from(["dsr-ipip", "dsr-gre"]), unique=True),
            "services": st.lists(st.integers(1, 65535).map("udp/{}".format), unique=True, max_size=2),
        },
    ),
    unique_by=lambda vip: str(vip["address"]),
    max_size=6,
)


@patient
@given(vips, st.integers(0, 6))
def test_every_good_vip_comes_to_one_address_of_ours(directory: Path, wanted: list[dict[str, Any]], cut: int) -> None:
    tunnels = "".join(f'[[tunnel]]\nencapsulation = "{k}"\nload_balancers = "any"\n' for k in ("ipip", "gre"))
    entries = ["[[vip]]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in vip.items()) for vip in wanted]
    found = loaded(directory, tunnels + "".join(entries[:cut]), {"dsr-agent.d/a.toml": "".join(entries[cut:])}).desired

    assert {(str(a.ip), a.link) for a in found.addresses.values()} == {
        (vip["address"], vip.get("device", "lo")) for vip in wanted
    }
    assert all(key == address.key == found.vips[key].key for key, address in found.addresses.items())
    assert all(owns_address(address) for address in found.addresses.values())
    assert all(address.deprecated != (address.scope == 254) for address in found.addresses.values())
    assert [v.tunnels for v in found.vips.values()] == [
        tuple(vip.get("tunnels", ("dsr-ipip", "dsr-gre"))) for vip in wanted
    ]


def test_ten_thousand_vips(tmp_path: Path) -> None:
    # How long this takes is for the benchmarks; a check that looks at every pair would be felt here.
    text = "".join(f'[[vip]]\naddress = "{ip_address(0xC6120000 + number)}"\n' for number in range(10_000))

    assert len(loaded(tmp_path, text).desired.addresses) == 10_000
