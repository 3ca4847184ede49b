"""What cannot be had yet, and what comes of it by itself once it can."""

from __future__ import annotations

from tests.fake.story import FILE, HOST, IN_SYNC, Story, sorted_lines

ON_DUMMY = FILE.replace('address = "192.0.2.10"', 'address = "192.0.2.10"\ndevice = "dummy0"')


async def test_a_vip_comes_as_soon_as_its_device_does() -> None:
    """The other one did not wait for it; and the device is the operator's to bring up."""
    async with Story(ON_DUMMY) as story:
        assert story.log()[1:] == [
            'ERROR dummy0: VIPs wait for device dummy0, which is not there: create it, or write device = "lo"'
        ]
        assert "2001:db8::10/128 ours" in story.host

        await story.hears("ip link add dummy0 type dummy")

        assert "192.0.2.10/32 ours" in story.host
        assert "ERROR dummy0: device dummy0 is down, so its VIPs are not accepted: ip link set dummy0 up" in story.log()

        await story.hears("ip link set dummy0 up")

        assert story.log() == ["INFO in sync again"]


async def test_a_device_that_goes_and_comes_gets_its_vips_back() -> None:
    """They went with it."""
    async with Story(ON_DUMMY, HOST + "dummy0 dummy up\n") as story:
        await story.hears("ip link del dummy0")
        assert "192.0.2.10" not in story.host

        await story.hears("ip link add dummy0 type dummy", "ip link set dummy0 up")

        assert "dummy0 dummy up\n  192.0.2.10/32 ours\n" in story.host
        assert story.log()[-1] == "INFO in sync again"


async def test_a_tunnel_comes_as_soon_as_what_stood_in_its_way_is_gone() -> None:
    """It is not ours, and is left alone until then."""
    host = HOST + "gre0 gre down\ndsr-ipip gre local 10.9.9.9 up\n"
    async with Story(host=host) as story:
        assert "dsr-ipip gre local 10.9.9.9 up" in story.host
        story.log()

        await story.hears("ip link del dsr-ipip")

        assert "dsr-ipip sit local 10.0.3.2 up ours" in story.host
        assert story.log() == [
            "WARNING tunnel dsr-ipip: it is missing; made again in 0.0 ms",
            "INFO in sync again",
        ]


async def test_a_tunnel_comes_as_soon_as_there_is_a_route() -> None:
    """At boot the network may take its time."""
    async with Story(host=HOST.replace("10.1.0.5 is reached from 10.0.3.2", "")) as story:
        assert "dsr-ipip" not in story.host
        assert "192.0.2.10/32 ours" in story.host, "VIPs do not wait for it"

        story.kernel.reach("10.1.0.5", "10.0.3.2")
        await story.seconds(1)

        assert sorted_lines(story.host) == sorted_lines(IN_SYNC)


async def test_an_ipv6_vip_comes_once_ipv6_is_switched_on() -> None:
    """Switching it on is not announced; the retries find it."""
    host = HOST.replace("lo up\n", "lo up\n  ipv6.disable_ipv6=1\n")
    async with Story(host=host) as story:
        assert story.log()[1:] == [
            "ERROR VIP 2001:db8::10/128 on lo: cannot add 2001:db8::10/128 on lo: IPv6 is switched off on lo: "
            "sysctl -w net.ipv6.conf.lo.disable_ipv6=0"
        ]
        await story.seconds(300)
        assert story.log() == [], "told once"

        await story.hears("sysctl -w net/ipv6/conf/lo/disable_ipv6=0")
        await story.seconds(31)

        assert sorted_lines(story.host) == sorted_lines(IN_SYNC)
        assert story.log() == [
            "INFO VIP 2001:db8::10/128 on lo: it is missing; put back in 0.0 ms",
            "INFO in sync again",
        ]
