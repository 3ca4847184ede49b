"""A server goes from one encapsulation to the next under traffic, and loses nothing that the file lets in."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator

import pytest

from tests.lab.agent import Agent, tunnel, vip
from tests.lab.eye import Eye
from tests.lab.ledger import Ledger
from tests.lab.marks import MOSTLY_FAST
from tests.lab.servers import clean, total
from tests.lab.traffic import Stream, ask_tcp, echoes
from tests.lab.world import BALANCER_IP6, RS1, Virtual, rewrap, world

PORT = 7001
ORDER = ("ipip", "gre", "gue")
ADDRESSES = ("192.0.2.10", "2001:db8:f::10")
# A VIP of its own for each form: what is still sent in the old form is told from what comes in the new one.
APART = dict(zip(ORDER, ("192.0.2.11", "192.0.2.12", "192.0.2.13"), strict=True))
KILOBYTES = bytes(64 * 1024)


@pytest.fixture(scope="module", params=[4, 6], ids=["over-IPv4", "over-IPv6"])
def outer(request: pytest.FixtureRequest) -> int:
    """The version of the header that the balancer puts around."""
    version: int = request.param
    return version


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def balancer(request: pytest.FixtureRequest, outer: int) -> Iterator[None]:
    """All VIPs behind IPVS, which begins with IP in IP, and an echo on each of them."""
    both = [Virtual(address, ORDER[0], outer) for address in ADDRESSES]
    with contextlib.ExitStack() as stack:
        stack.enter_context(world([*both, *(Virtual(address, how, outer) for how, address in APART.items())]))
        stack.enter_context(echoes(RS1, [*ADDRESSES, *APART.values()], [PORT]))
        yield


def declared(outer: int, *hows: str, name: str = "") -> str:
    """Tunnels of these encapsulations, from the balancer."""
    more = {"load_balancers": [BALANCER_IP6]} if outer == 6 else {}
    return "".join(tunnel(how, **({"name": name} if name else {}), **more) for how in hows)


@pytest.mark.usefixtures("balancer")
def test_from_ipip_to_gre_to_gue(outer: int, ledger: Ledger) -> None:
    """Declare the next one beside the old one, have the balancer change over, take the old one out of the file."""
    vips = "".join(map(vip, ADDRESSES))
    rewrap([Virtual(address, ORDER[0], outer) for address in ADDRESSES], RS1)
    with Agent(RS1, declared(outer, ORDER[0]) + vips) as agent, contextlib.ExitStack() as stack:
        found = [stack.enter_context(Stream(address, PORT)) for address in ADDRESSES]
        for old, new in itertools.pairwise(ORDER):
            for stream in found:
                stream.wait_answered()
            agent.reload(declared(outer, old, new) + vips)
            rewrap([Virtual(address, new, outer) for address in ADDRESSES], RS1)
            for address, stream in zip(ADDRESSES, found, strict=True):
                assert ask_tcp(address, PORT, KILOBYTES).server == RS1
                stream.wait_answered()  # what was wrapped in the old form has arrived
            agent.reload(declared(outer, new) + vips)
            assert agent.status()["in_sync"]
            assert ours() == [f"dsr-{new}" + "6" * (outer == 6)]
        tally = total(found)
    ledger.add(f"from {', to '.join(ORDER)} over IPv{outer}, the old one beside the new one", None, tally)
    assert clean(tally)


@pytest.mark.usefixtures("balancer")
def test_in_one_step(outer: int, ledger: Ledger) -> None:
    """One tunnel gets another encapsulation: each form arrives for as long as the file says it."""
    vips = "".join(map(vip, APART.values()))
    for old, new in [
        ("ipip", "gre"),
        ("gre", "gue"),
        ("gue", "gre"),
        ("gre", "ipip"),
        ("ipip", "gue"),
        ("gue", "ipip"),
    ]:
        with Agent(RS1, declared(outer, old, name="edge") + vips) as agent:
            agent.settle()
            with Stream(APART[old], PORT) as before, Stream(APART[new], PORT) as after:
                before.wait_answered()
                asked = time.monotonic()
                agent.reload(declared(outer, new, name="edge") + vips)
                done = time.monotonic()
                after.wait_answered()
                before.finish()
                after.finish()
            assert ours() == ["edge"]
            assert agent.status()["in_sync"]
        tally = before.tally(before=asked) + after.tally(after=done)
        ledger.add(f"from {old} to {new} over IPv{outer}, in one step", done - asked, tally)
        assert clean(tally)


def ours() -> list[str]:
    """The links that the agent has on the real server."""
    with contextlib.closing(Eye(RS1)) as eye:
        return [link.name for link in eye.ours()]
