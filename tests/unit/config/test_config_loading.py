"""What a good configuration comes to: defaults, drop-ins, environment, warnings, the example that is shipped."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from dsr_agent.config import Settings, load
from dsr_agent.config.refusals import KEYS
from tests.unit.config.configs import MAIN, TUNNEL, VIP, loaded, refused, write

EXAMPLE = Path(__file__).parents[3] / "packaging" / "dsr-agent.toml"
GRE = '[[tunnel]]\nencapsulation = "gre"\nload_balancers = ["10.1.0.5"]\n'


def test_an_empty_file_desires_nothing(tmp_path: Path) -> None:
    found = loaded(tmp_path, "")

    assert found.settings == Settings()
    assert (found.desired.tunnels, found.desired.vips, found.desired.addresses) == ({}, {}, {})
    assert (found.files, found.warnings) == ((tmp_path / MAIN,), ())


def test_the_smallest_useful_file(tmp_path: Path) -> None:
    settings = loaded(tmp_path, TUNNEL + VIP).settings

    (tunnel,), (vip,) = settings.tunnel, settings.vip
    assert (tunnel.name, tunnel.local, tunnel.key, tunnel.checksum) == ("dsr-ipip", "auto", None, False)
    assert tunnel.load_balancers == (IPv4Network("10.1.0.5/32"),)
    assert (vip.address, vip.name, vip.device) == (IPv4Address("192.0.2.10"), "192.0.2.10", None)
    assert (vip.tunnels, vip.services) == (None, ())
    agent = settings.agent
    assert (agent.resync_interval, agent.poll_interval, agent.log_level, agent.arp) == (60, 5, "info", "auto")
    assert settings.http.listen == ("127.0.0.1:9177",)


def test_everything_that_can_be_written(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        """
        [agent]
        resync_interval = 1
        poll_interval = 0.5
        log_level = "debug"
        arp = "ignore"
        [http]
        listen = ["0.0.0.0:1", "[::1]:65535", "localhost:9177"]
        socket = "/run/http.sock"
        certificate = "/etc/cert.pem"
        key = "/etc/key.pem"
        client_ca = "/etc/ca.pem"
        [[tunnel]]
        encapsulation = "gre"
        load_balancers = ["10.1.0.5", "10.1.0.5/31", "10.1.0.4/30", "10.2.0.0/16"]
        name = "fifteen-letters"
        local = "bond0.100"
        key = 4294967295
        checksum = true
        [[tunnel]]
        encapsulation = "gre"
        load_balancers = "any"
        name = "dsr_gre.0"
        local = "10.0.0.2"
        key = 0
        [[vip]]
        address = "2001:DB8::1/128"
        name = "radius, über IPv6"
        device = "dummy0"
        tunnels = ["dsr_gre.0"]
        services = ["udp/1812", "tcp/65535", "tcp/1"]
        """.replace("10.1.0.5/31", "10.1.0.4/31"),
    ).settings

    assert settings.agent.resync_interval == 1
    assert settings.http.listen[1] == "[::1]:65535"
    assert (settings.http.socket, settings.http.certificate) == ("/run/http.sock", "/etc/cert.pem")
    assert (settings.http.key, settings.http.client_ca) == ("/etc/key.pem", "/etc/ca.pem")
    assert [tunnel.local for tunnel in settings.tunnel] == ["bond0.100", IPv4Address("10.0.0.2")]
    assert [tunnel.key for tunnel in settings.tunnel] == [4294967295, 0]
    assert settings.tunnel[1].load_balancers == ()
    assert settings.vip[0].services == ("udp/1812", "tcp/65535", "tcp/1")


def test_a_vip_inside_of_a_load_balancer_prefix_is_fine(tmp_path: Path) -> None:
    text = TUNNEL.replace("10.1.0.5", "10.1.0.0/24") + VIP.replace("192.0.2.10", "10.1.0.77")

    assert loaded(tmp_path, text).warnings == ()
    assert loaded(tmp_path, text.replace("10.1.0.77", "10.1.0.0")).warnings == ()


def test_a_local_inside_of_a_load_balancer_prefix_is_fine(tmp_path: Path) -> None:
    loaded(tmp_path, TUNNEL.replace("10.1.0.5", "10.1.0.0/24") + 'local = "10.1.0.0"\n')


def test_the_bounds_belong_to_what_is_allowed(tmp_path: Path) -> None:
    for low, high in ((1, 0.5), (3600, 60)):
        agent = loaded(tmp_path, f"[agent]\nresync_interval = {low}\npoll_interval = {high}\n").settings.agent
        assert (agent.resync_interval, agent.poll_interval) == (low, high)


def test_one_gre_tunnel_for_each_key_and_one_without(tmp_path: Path) -> None:
    text = GRE + GRE + 'name = "a"\nkey = 0\n' + GRE + 'name = "b"\nkey = 1\n' + GRE + 'name = "c"\nlocal = "eth0"\n'

    assert len(loaded(tmp_path, text + TUNNEL).desired.tunnels) == 5


def test_the_settings_cannot_be_changed(tmp_path: Path) -> None:
    found = loaded(tmp_path, TUNNEL + VIP)

    for owner, key in ((found.settings.agent, "arp"), (found.settings.vip[0], "name"), (found, "files")):
        with pytest.raises((ValueError, AttributeError)):
            setattr(owner, key, "x")


def test_of_many_tunnels_a_few_are_named(tmp_path: Path) -> None:
    text = "".join(f'{TUNNEL}name = "t{number}"\nlocal = "eth{number}"\n' for number in range(10, 30))

    assert refused(tmp_path, text + VIP + 'tunnels = ["x"]\n') == [
        f'{MAIN}:103: vip[0].tunnels[0]: no tunnel is named "x": '
        "there is t10, t11, t12, t13, t14, t15, t16, t17, t18, t19 and more"
    ]


# --- drop-ins -----------------------------------------------------------------------------------------------------


def test_drop_ins_add_in_the_order_of_their_names(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        VIP,
        {
            "dsr-agent.d/20.toml": VIP.replace("10", "12"),
            "dsr-agent.d/10.toml": VIP.replace("10", "11") + TUNNEL,
            "dsr-agent.d/.hidden.toml": "not [ TOML",
            "dsr-agent.d/10.toml~": "not [ TOML",
            "dsr-agent.d/notes.txt": "not [ TOML",
        },
    )

    assert [str(vip.address) for vip in found.settings.vip] == ["192.0.2.10", "192.0.2.11", "192.0.2.12"]
    assert [vip.tunnels for vip in found.desired.vips.values()] == [("dsr-ipip",)] * 3
    assert [file.name for file in found.files] == [MAIN, "10.toml", "20.toml"]


def test_the_directory_of_drop_ins_is_named_after_the_file(tmp_path: Path) -> None:
    write(tmp_path, "", {"dsr-agent.d/a.toml": VIP, "other.d/b.toml": VIP.replace("10", "11"), "other.toml": ""})

    found = load(tmp_path / "other.toml", environ={})

    assert [str(vip.address) for vip in found.settings.vip] == ["192.0.2.11"]


# --- environment --------------------------------------------------------------------------------------------------


def test_the_environment_goes_above_the_file(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        '[agent]\nlog_level = "error"\narp = "ignore"\n',
        DSR_AGENT_AGENT__LOG_LEVEL="debug",
        DSR_AGENT_AGENT__RESYNC_INTERVAL="90",
        DSR_AGENT_AGENT__POLL_INTERVAL="0.5",
        DSR_AGENT_HTTP__LISTEN='["[::]:80"]',
        DSR_AGENT_CONFIG="/not/looked/at",
        PATH="/bin",
    ).settings

    agent = settings.agent
    assert (agent.log_level, agent.resync_interval, agent.poll_interval, agent.arp) == ("debug", 90, 0.5, "ignore")
    assert settings.http.listen == ("[::]:80",)


def test_the_environment_does_not_hide_that_a_section_is_no_table(tmp_path: Path) -> None:
    assert refused(tmp_path, "agent = 3\n", DSR_AGENT_AGENT__LOG_LEVEL="debug") == [
        f"{MAIN}:1: agent: found 3: write [agent], with its keys below it"
    ]


def test_lists_of_the_environment_replace_those_of_the_files_with_a_warning(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        VIP,
        {"dsr-agent.d/a.toml": VIP.replace("10", "11")},
        DSR_AGENT_VIP='[{"address": "192.0.2.20"}]',
        DSR_AGENT_TUNNEL='[{"encapsulation": "gre", "load_balancers": "any", "key": 7}]',
    )

    assert [str(vip.address) for vip in found.settings.vip] == ["192.0.2.20"]
    assert found.desired.tunnels["dsr-gre"].key == 7
    assert found.warnings == (
        "environment DSR_AGENT_VIP: replaces the [[vip]] of all files (2)",
        'environment DSR_AGENT_TUNNEL: tunnel[0].load_balancers: "any": whoever can reach this host may send through '
        "dsr-gre, under any client's address",
    )


def test_a_table_of_the_environment_and_a_single_variable(tmp_path: Path) -> None:
    agent = loaded(
        tmp_path,
        "",
        DSR_AGENT_AGENT='{"log_level": "error", "arp": "ignore"}',
        DSR_AGENT_AGENT__LOG_LEVEL="warning",
    ).settings.agent

    assert (agent.log_level, agent.arp) == ("warning", "ignore")


def test_only_the_environment_that_is_given_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSR_AGENT_AGENT__LOG_LEVEL", "debug")
    monkeypatch.setenv("DSR_AGENT_NONSENSE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("DSR_AGENT_AGENT__LOG_LEVEL=debug\n")

    assert loaded(tmp_path, "").settings.agent.log_level == "info"
    assert Settings().agent.log_level == "info"


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, '{"a": ' * 100_000])
def test_an_environment_that_would_break_a_json_reader(tmp_path: Path, text: str) -> None:
    for name in ("DSR_AGENT_VIP", "DSR_AGENT_AGENT__RESYNC_INTERVAL"):
        (said,) = refused(tmp_path, "", None, **{name: text})
        assert said == f"environment {name}: holds a number too long or is nested too deeply"


# Every variable that a pod gets for a service "dsr-agent" with two ports, and for one called "dsr-agent-metrics".
KUBERNETES = {
    "DSR_AGENT_SERVICE_HOST": "10.96.0.7",
    "DSR_AGENT_SERVICE_PORT": "9177",
    "DSR_AGENT_SERVICE_PORT_HTTP_METRICS": "9177",
    "DSR_AGENT_PORT": "tcp://10.96.0.7:9177",
    "DSR_AGENT_PORT_9177_TCP": "tcp://10.96.0.7:9177",
    "DSR_AGENT_PORT_9177_TCP_PROTO": "tcp",
    "DSR_AGENT_PORT_9177_TCP_PORT": "9177",
    "DSR_AGENT_PORT_9177_TCP_ADDR": "10.96.0.7",
    "DSR_AGENT_PORT_1812_UDP": "udp://[fd00::7]:1812",
    "DSR_AGENT_METRICS_SERVICE_HOST": "10.96.0.8",
    "DSR_AGENT_METRICS_PORT_9177_TCP_ADDR": "10.96.0.8",
}


def test_what_kubernetes_says_of_a_service_of_our_name_is_not_for_us(tmp_path: Path) -> None:
    found = loaded(tmp_path, TUNNEL + VIP, None, **KUBERNETES, DSR_AGENT_AGENT__LOG_LEVEL="debug")

    assert found.settings.agent.log_level == "debug"
    assert found.warnings == ()
    assert found == loaded(tmp_path, TUNNEL + VIP, DSR_AGENT_AGENT__LOG_LEVEL="debug")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DSR_AGENT_PORT", "9177"),  # what somebody may write who means the port of HTTP
        ("DSR_AGENT_HTTP_PORT", "9177"),
        ("DSR_AGENT_SERVICE_PORT", "http"),
        ("DSR_AGENT_PORT_9177_ICMP", "icmp://10.96.0.7"),
        ("DSR_AGENT_SERVICE", "10.96.0.7"),
        ("DSR_AGENT__SERVICE_HOST", "10.96.0.7"),
        ("DSR_AGENT_SERVICE_HOSTS", "10.96.0.7"),
        ("DSR_AGENT_service_host", "10.96.0.7"),
    ],
)
def test_what_only_looks_like_it_is_refused(tmp_path: Path, name: str, text: str) -> None:
    [said] = refused(tmp_path, TUNNEL + VIP, None, **{name: text})

    assert said.startswith(f"environment {name}: unknown variable: ")


def test_an_environment_that_is_not_text(tmp_path: Path) -> None:
    assert refused(tmp_path, "", DSR_AGENT_AGENT__LOG_LEVEL="\udcff\x1b[2J") == [
        'environment DSR_AGENT_AGENT__LOG_LEVEL: agent.log_level: found "\\udcff\\x1b[2J": '
        'write "debug", "info", "warning" or "error"'
    ]


# --- warnings -----------------------------------------------------------------------------------------------------


def test_any_is_warned_about_where_it_was_written(tmp_path: Path) -> None:
    drop_in = GRE.replace('["10.1.0.5"]', '"any"')

    (warning,) = loaded(tmp_path, TUNNEL, {"dsr-agent.d/a.toml": drop_in}).warnings

    assert warning == (
        f'{tmp_path}/dsr-agent.d/a.toml: tunnel[0].load_balancers: "any": whoever can reach this host may send '
        "through dsr-gre, under any client's address"
    )


def test_a_vip_without_a_tunnel_is_warned_about(tmp_path: Path) -> None:
    assert loaded(tmp_path, VIP + 'name = "radius"\n').warnings == (
        '192.0.2.10 "radius": this VIP has no tunnel: requests must reach this host some other way',
    )
    vips = "".join(VIP.replace("10", str(number)) for number in range(10, 15))
    assert loaded(tmp_path, vips).warnings == (
        "192.0.2.10, 192.0.2.11, 192.0.2.12 and 2 more: these VIPs have no tunnel: "
        "requests must reach this host some other way",
    )
    assert len(loaded(tmp_path, TUNNEL + VIP + "tunnels = []\n").warnings) == 1


def test_a_tunnel_without_vips_is_nothing_to_warn_about(tmp_path: Path) -> None:
    assert loaded(tmp_path, TUNNEL).warnings == ()


def test_a_tunnel_that_looks_for_code_points_and_vips_without_any_is_warned_about(tmp_path: Path) -> None:
    marks = '[[tunnel]]\nencapsulation = "dscp"\n'
    open_ = "clear DSCP at the edge"

    found = [text for text in loaded(tmp_path, TUNNEL + marks + VIP).warnings if open_ not in text]

    assert found == [
        f"{tmp_path}/dsr-agent.toml: tunnel[1]: no VIP of dsr-dscp has a code point, so nothing comes by it: "
        "write dscp = 7 in a [[vip]]"
    ]
    assert [text for text in loaded(tmp_path, TUNNEL + marks + VIP + "dscp = 7\n").warnings if open_ not in text] == []
    assert [text for text in loaded(tmp_path, TUNNEL + marks).warnings if open_ not in text] == []


def test_a_service_at_a_tunnels_port_is_warned_about(tmp_path: Path) -> None:
    gue = TUNNEL.replace('"gre"', '"gue"').replace('"ipip"', '"gue"')

    [warning] = loaded(tmp_path, gue + VIP + 'services = ["tcp/6080", "udp/6080"]\n').warnings

    assert warning == (
        f"{tmp_path}/dsr-agent.toml: tunnel[0].port: 6080 is a service of VIP 192.0.2.10, too: an application that "
        "listens at all addresses cannot have it beside the tunnel: let it listen at the VIP, or write another port"
    )
    assert loaded(tmp_path, gue + VIP + 'services = ["tcp/6080", "udp/6081"]\n').warnings == ()


# --- the example --------------------------------------------------------------------------------------------------


def test_the_example_is_harmless_as_shipped() -> None:
    found = load(EXAMPLE, environ={})

    assert found.settings == Settings()
    assert found.warnings == ()


def test_the_example_explains_every_key_and_works_without_its_comment_signs(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    text = re.sub(r"^#(?=[a-z_]+ = |\[\[)", "", text, flags=re.MULTILINE).replace('"ipip"', '"gre"')
    found = loaded(
        tmp_path, text.replace("dsr-ipip", "dsr-gre").replace("port = 6080\n", "").replace("dscp = 7\n", "")
    )  # gre has none

    assert len(found.settings.tunnel) == len(found.settings.vip) == 1
    for section, keys in KEYS.items():
        assert f"[{section}]" in text
        assert all(re.search(rf"^{key} = ", text, re.MULTILINE) for key in keys)
    # What it shows as the default is the default.
    agent = found.settings.agent.model_copy(update={"netns": None})  # there is no name to show as one
    assert (agent, found.settings.http.listen) == (Settings().agent, Settings().http.listen)
    assert found.settings.probe == Settings().probe
