"""The program as a service: what systemd hears, what HTTP says, and what stop, reload and bad files do to both."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
from pathlib import Path

import pytest

from tests.netns.process import DEADLINE, PORT, Agent, Response, Watcher, ask, get
from tests.netns.space import sh

VIPS = '[[vip]]\naddress = "192.0.2.10"\n[[vip]]\naddress = "2001:db8::10"\nname = "radius"\n'
ABSENT = '[[vip]]\naddress = "192.0.2.20"\ndevice = "absent0"\n'


def plugged(folder: Path, *lines: str) -> str:
    """PYTHONPATH of an agent that runs *lines* before it starts."""
    (folder / "sitecustomize.py").write_text("\n".join(lines) + "\n")
    return os.pathsep.join([str(folder), str(Path(__file__).resolve().parents[2])])


class TestNotification:
    @pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
    def test_ready_comes_when_the_data_plane_stands(self, tmp_path: Path, abstract: bool) -> None:
        with Agent(tmp_path, VIPS, abstract=abstract) as agent:
            there = sh("ip -o addr show dev lo")
            assert "192.0.2.10/32" in there
            assert "2001:db8::10/128" in there
            assert agent.heard == ["READY=1\nSTATUS=in sync: 0 tunnels, 2 VIPs"]
            agent.serving()

    def test_ready_comes_as_well_when_the_first_pass_ended_and_said_why_not(self, tmp_path: Path) -> None:
        with Agent(tmp_path, ABSENT) as agent:
            assert agent.heard[-1].startswith(
                "READY=1\nSTATUS=not in sync: absent0: VIPs wait for device absent0, which is not there"
            )

    def test_status_follows_the_state(self, tmp_path: Path) -> None:
        with Agent(tmp_path, ABSENT) as agent:
            sh("ip link add absent0 type veth peer name far", "ip link set absent0 up")
            assert agent.hear("STATUS=in sync") == "STATUS=in sync: 0 tunnels, 1 VIP"

    def test_reload_and_stop_are_told(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent:
            agent.reload(VIPS + '[[vip]]\naddress = "192.0.2.11"\n')
            reloading = next(text for text in agent.heard if text.startswith("RELOADING"))
            ready = agent.heard[-1]
            assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
            assert int(reloading.partition("USEC=")[2]) > 0
            assert ready == "READY=1\nSTATUS=in sync: 0 tunnels, 3 VIPs"
            os.kill(agent.pid, signal.SIGTERM)
            agent.hear("STOPPING=1")
        assert "192.0.2.11/32" in sh("ip -o addr show dev lo")

    def test_a_file_that_takes_long_to_read_delays_no_repair(self, tmp_path: Path) -> None:
        """And one that was written meanwhile is read after it."""
        path = plugged(
            tmp_path,
            "import os, time",
            "from dsr_agent import cli",
            "load = cli.load",
            "def slow(*told, **known):",
            "    read = load(*told, **known)",
            f"    while os.path.exists({str(tmp_path / 'slow')!r}): time.sleep(0.01)",
            "    return read",
            "cli.load = slow",
        )
        with Agent(tmp_path, VIPS, PYTHONPATH=path) as agent, Watcher() as watcher:
            (tmp_path / "slow").touch()
            os.kill(agent.pid, signal.SIGHUP)
            agent.hear("RELOADING=1")
            assert watcher.repair("192.0.2.10") > 0
            agent.file.write_text(VIPS + '[[vip]]\naddress = "192.0.2.11"\n')
            os.kill(agent.pid, signal.SIGHUP)
            agent.hear("RELOADING=1")
            (tmp_path / "slow").unlink()
            agent.hear("READY=1\nSTATUS=in sync: 0 tunnels, 3 VIPs")

    def test_a_sighup_that_comes_before_it_can_be_heeded_waits(self, tmp_path: Path) -> None:
        """By default it would be the end."""
        path = plugged(
            tmp_path,
            "import os, signal",
            "from dsr_agent import cli",
            "load = cli.load",
            "def early(*told, **known):",
            "    cli.load = load",
            "    os.kill(os.getpid(), signal.SIGHUP)",
            "    return load(*told, **known)",
            "cli.load = early",
        )
        with Agent(tmp_path, VIPS, PYTHONPATH=path) as agent:
            agent.until(lambda: "read the file again" in agent.log(), "the reload")

    def test_a_file_that_became_empty_is_told_as_that(self, tmp_path: Path) -> None:
        """It is obeyed; but a disk that was full may have written it."""
        with Agent(tmp_path, VIPS) as agent:
            agent.reload("")
            assert (
                f"no VIP any more, so all that were made here are removed: is it whole? ({agent.file})" in agent.log()
            )
            agent.reload("")
            assert agent.log().count("is it whole?") == 1

    def test_a_bad_file_ends_the_reload_and_is_in_the_status(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent:
            agent.reload(VIPS + "x = 1\n")
            assert "going on as before" in agent.heard[-1]
            assert "in sync: 0 tunnels, 2 VIPs" in agent.heard[-1]


class TestWatchdog:
    def test_a_loop_that_turns_says_so(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS, WATCHDOG_USEC="400000") as agent:
            for _ in range(5):
                agent.hear("WATCHDOG=1")

    def test_a_loop_that_is_stuck_does_not_though_everything_else_lives(self, tmp_path: Path) -> None:
        # The kernel does not answer any more: the loop waits in its pass, while HTTP goes on.
        path = plugged(
            tmp_path,
            "import asyncio, os",
            "from dsr_agent.kernel.host import Host",
            "look = Host.observe",
            "async def observe(self, *scope):",
            f"    await asyncio.sleep(3600 * os.path.exists({str(tmp_path / 'stuck')!r}))",
            "    return await look(self, *scope)",
            "Host.observe = observe",
        )
        with Agent(tmp_path, VIPS, WATCHDOG_USEC="400000", PYTHONPATH=path) as agent:
            agent.serving()
            agent.hear("WATCHDOG=1")
            (tmp_path / "stuck").touch()
            sh("ip addr del 192.0.2.10/32 dev lo")
            # Some were on their way; a loop that turned would send more for ever.
            assert any(agent.hears_nothing("WATCHDOG=1", 1.5) for _ in range(30))
            assert get("/status").status == 200
            os.kill(agent.pid, signal.SIGKILL)

    def test_without_a_watchdog_nobody_pets_it(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS, WATCHDOG_USEC="400000", WATCHDOG_PID="1") as agent:
            assert agent.hears_nothing("WATCHDOG=1", 1.0)


class TestHealth:
    def test_what_is_there_is_ready(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent:
            agent.serving()
            assert get("/readyz").status == 200
            assert get("/readyz/192.0.2.10").status == 200
            assert get("/readyz/2001:DB8:0::10").status == 200
            assert get("/readyz/radius").status == 200
            assert get("/readyz/192.0.2.99").status == 404
            assert get("/livez").status == 200
            assert get("/").status == 404

    def test_what_is_not_there_says_why_and_only_for_itself(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS + ABSENT) as agent:
            agent.serving()
            for path in ("/readyz", "/readyz/192.0.2.20"):
                answer = get(path)
                assert answer.status == 503
                assert "VIPs wait for device absent0, which is not there" in answer.body
            assert get("/readyz/192.0.2.10").status == 200
            assert get("/livez").status == 200

    def test_status_is_that_of_the_command_and_more(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS + ABSENT) as agent:
            agent.until(
                lambda: get("/status").json()["agent"]["self_test"]["off"] is None, "the self-test, which is last"
            )
            served = get("/status").json()
            agent.until(lambda: agent.unix("/livez").status == 200, "the socket")
            printed = json.loads(agent.call("status", "--json").stdout)
            ages = [served["agent"].pop("last_turn_age"), printed["agent"].pop("last_turn_age")]
            assert min(ages) >= 0
            assert served == printed
            assert served["agent"]["pid"] == agent.pid
            assert served["in_sync"] is False

    def test_the_command_tells_about_a_file_that_was_refused(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent:
            agent.serving()
            agent.reload(VIPS + "x = 1\n")
            assert get("/metrics").sample("dsr_config_last_reload_successful") == 0
            assert get("/readyz").status == 200
            agent.file.write_text(VIPS)
            said = agent.call("status").stdout
            assert "the file could not be used when it was read at" in said
            assert 'unknown key: [[vip]] has "address"' in said
            agent.reload(VIPS)
            assert "could not be used" not in agent.call("status").stdout

    def test_the_command_works_without_the_socket(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent:
            agent.serving()
            (tmp_path / "http.sock").unlink()
            assert agent.call("status").stdout.startswith(f"in sync; the agent is running (process {agent.pid})")


class TestMetrics:
    def test_a_repair_is_counted(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent, Watcher() as watcher:
            agent.serving()
            watcher.repair("192.0.2.10")
            agent.until(
                lambda: get("/metrics").sample('dsr_repairs_total{object="vip",result="done"}') == 1, "the count"
            )
            answer = get("/metrics")
            assert answer.sample('dsr_drift_total{object="vip"}') == 1
            assert answer.sample("dsr_repair_duration_seconds_count") == 1
            assert answer.sample('dsr_vip_present{vip="192.0.2.10"}') == 1
            assert answer.sample("dsr_in_sync") == 1

    def test_head_says_how_much_and_sends_nothing(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent:
            agent.serving()
            agent.until(lambda: agent.unix("/livez").status == 200, "the socket")
            answer = agent.unix("/metrics", "HEAD")
            assert (answer.status, answer.body) == (200, "")
            assert int(answer.headers["Content-Length"]) > 1000
            assert agent.unix("/metrics", "POST").status == 405


class TestSocket:
    def test_it_is_for_owner_and_group_and_gone_at_the_end(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent:
            agent.until(lambda: agent.unix("/livez").status == 200, "the socket")
            assert stat.S_IMODE((tmp_path / "http.sock").stat().st_mode) == 0o660
        assert not (tmp_path / "http.sock").exists()

    def test_what_a_killed_agent_left_is_replaced(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent:
            agent.until(lambda: agent.unix("/livez").status == 200, "the socket")
            os.kill(agent.pid, signal.SIGKILL)
        assert (tmp_path / "http.sock").exists()
        (tmp_path / "notify").unlink()
        with Agent(tmp_path, VIPS) as agent:
            agent.until(lambda: agent.unix("/livez").status == 200, "the socket")

    def test_a_runtime_directory_that_cannot_be_written_costs_the_socket_only(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS, RUNTIME_DIRECTORY="/proc") as agent:
            agent.serving()
            assert get("/readyz").status == 200
            agent.until(lambda: "cannot serve HTTP on /proc/http.sock" in agent.log(), "the log")


class TestListening:
    def test_an_address_that_comes_later(self, tmp_path: Path) -> None:
        config = f'[http]\nlisten = ["10.9.9.9:{PORT}", "127.0.0.1:{PORT}"]\n' + VIPS
        with Agent(tmp_path, config) as agent:
            agent.serving()
            assert "10.9.9.9 is not an address of this host (yet)" in agent.log()
            sh("ip addr add 10.9.9.9/32 dev lo")
            assert get("/livez", "10.9.9.9").status == 200

    def test_a_port_that_is_taken_is_told_once_and_had_when_it_is_free(self, tmp_path: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", PORT))
            taken.listen()
            config = f'[http]\nlisten = ["127.0.0.1:{PORT}", "127.0.0.1:{PORT + 1}"]\n' + VIPS
            with Agent(tmp_path, config) as agent:
                agent.serving(PORT + 1)
                answer = get("/metrics", port=PORT + 1)
                assert answer.sample(f'dsr_http_listening{{listen="127.0.0.1:{PORT}"}}') == 0
                agent.reload(config)  # which tries again at once
                for _ in range(2):
                    assert get("/livez", port=PORT + 1).status == 200
                taken.close()
                agent.serving()
                assert agent.log().count("somebody else listens there") == 1
                assert f"serving HTTP on 127.0.0.1:{PORT} again" in agent.log()

    def test_another_address_after_a_reload(self, tmp_path: Path) -> None:
        with Agent(tmp_path, VIPS) as agent:
            agent.serving()
            agent.reload(f'[http]\nlisten = ["[::1]:{PORT + 1}"]\n' + VIPS)
            agent.serving(PORT + 1, "::1")
            with pytest.raises(ConnectionRefusedError):
                get("/livez")


class TestTls:
    def test_with_client_certificates_and_again_after_a_reload(self, tmp_path: Path) -> None:
        make_certificates(tmp_path, "first")
        config = (
            f'[http]\ncertificate = "{tmp_path}/server.pem"\nkey = "{tmp_path}/server.key"\n'
            f'client_ca = "{tmp_path}/ca.pem"\n' + VIPS
        )
        with Agent(tmp_path, config) as agent:
            agent.until(lambda: get_tls("/livez", tmp_path), "HTTPS")
            assert get_tls("/readyz", tmp_path).status == 200
            with pytest.raises((ssl.SSLError, ConnectionError)):  # TLS 1.3 tells a client late that it is not let in
                get_tls("/readyz", tmp_path, certificate=False)
            with pytest.raises((OSError, http.client.HTTPException)):
                get("/readyz")
            assert agent.unix("/readyz").status == 200  # for this host's own tools, in the clear

            make_certificates(tmp_path, "second")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                get_tls("/readyz", tmp_path)
            agent.reload(config)
            agent.until(lambda: get_tls("/readyz", tmp_path).status == 200, "the new certificate")

    def test_a_certificate_that_cannot_be_read_never_means_in_the_clear(self, tmp_path: Path) -> None:
        config = f'[http]\ncertificate = "{tmp_path}/server.pem"\nkey = "{tmp_path}/server.key"\n' + VIPS
        with Agent(tmp_path, config) as agent:
            agent.until(lambda: "the certificate cannot be used, not serving" in agent.log(), "the log")
            agent.until(lambda: agent.unix("/livez"), "the unix socket")
            assert agent.unix("/metrics").sample(f'dsr_http_listening{{listen="127.0.0.1:{PORT}"}}') == 0
            with pytest.raises(ConnectionRefusedError):
                get("/livez")
            make_certificates(tmp_path, "late")
            agent.until(lambda: get_tls("/livez", tmp_path), "HTTPS, as soon as there is a certificate")

    def test_a_broken_certificate_at_a_reload_leaves_the_old_one(self, tmp_path: Path) -> None:
        make_certificates(tmp_path, "good")
        config = f'[http]\ncertificate = "{tmp_path}/server.pem"\nkey = "{tmp_path}/server.key"\n' + VIPS
        with Agent(tmp_path, config) as agent:
            agent.until(lambda: get_tls("/livez", tmp_path), "HTTPS")
            (tmp_path / "server.key").write_text("not a key")
            agent.reload(config)
            agent.until(lambda: "going on with the one before" in agent.log(), "the log")
            assert get_tls("/livez", tmp_path).status == 200


def make_certificates(folder: Path, name: str) -> None:
    """An authority called *name*, a server's certificate and a client's, all in *folder*."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", f"/CN={name}", "-days", "2")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for who in ("server", "client"):
        openssl("req", *new, "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={who}")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
        openssl("x509", "-req", "-in", f"{who}.csr", "-out", f"{who}.pem", *signed)


def get_tls(path: str, folder: Path, *, certificate: bool = True) -> Response:
    """Ask over TLS, trusting the authority in *folder* and nobody else."""
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    if certificate:
        context.load_cert_chain(folder / "client.pem", folder / "client.key")
    return ask(http.client.HTTPSConnection("127.0.0.1", PORT, timeout=DEADLINE, context=context), path)


def test_the_data_plane_is_made_before_anything_that_can_wait_is_even_imported(tmp_path: Path) -> None:
    path = plugged(
        tmp_path,
        "import sys",
        "from dsr_agent.service.notify import Notifier",
        "ready = Notifier.ready",
        "def spy(self, status):",
        f"    print(*sys.modules, sep='\\n', file=open({str(tmp_path / 'modules')!r}, 'w'), flush=True)",
        "    ready(self, status)",
        "Notifier.ready = spy",
    )
    with Agent(tmp_path, VIPS, PYTHONPATH=path) as agent:
        imported = {name.partition(".")[0] for name in (tmp_path / "modules").read_text().split()}
        assert imported & {"tornado", "prometheus_client", "pyroute2", "http", "gzip"} == set()
        assert "192.0.2.10/32" in sh("ip -o addr show dev lo")
        agent.serving()


def test_half_an_upgrade_costs_links_only(tmp_path: Path) -> None:
    """A library that cannot be imported any more is told, and VIPs, HTTP and metrics go on."""
    (tmp_path / "pyroute2").mkdir()
    (tmp_path / "pyroute2/__init__.py").write_text('raise RuntimeError("half of it is new")\n')
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[2])])
    with Agent(tmp_path, VIPS, PYTHONPATH=path) as agent, Watcher() as watcher:
        agent.serving()
        sh("ip link set lo down")
        agent.until(lambda: "no pyroute2: RuntimeError('half of it is new')" in agent.log(), "a link to bring up")
        assert watcher.repair("192.0.2.10") > 0
        sh("ip link set lo up")
        agent.hear("STATUS=in sync")
