"""FreeRADIUS on a real server, with a configuration of its own, and the client that its makers ship with it."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.lab.agent import DEADLINE, wait_for
from tests.lab.spaces import inside
from tests.lab.world import CLIENT

AUTH, ACCT = 1812, 1813
PORTS = (AUTH, ACCT)
USER, PASSWORD = "alice", "in wonderland"
# What a proxy adds has to come back in the answer (RFC 2865, 5.33), so these 4,017 bytes go both ways.
LONG = tuple(f"Proxy-State = 0x{number:02x}{'5a' * size}" for number, size in enumerate([252] * 15 + [189]))

_CONFIG = """
name = freeradius
libdir = /usr/lib/freeradius
prefix = /usr
localstatedir = {folder}
raddbdir = {folder}
logdir = {folder}
run_dir = {folder}
hostname_lookups = no
log {{ destination = files
  file = {folder}/log
  auth = yes }}
security {{ reject_delay = 0
  require_message_authenticator = yes
  limit_proxy_state = auto
  status_server = yes }}
thread pool {{ start_servers = 1
  max_servers = 4
  min_spare_servers = 1
  max_spare_servers = 4 }}
modules {{
  pap {{ }}
  files {{ filename = {folder}/users }}
  detail {{ filename = {folder}/detail
    header = "%t"
    log_packet_header = yes }}
}}
{clients}
server default {{
{listeners}
  authorize {{
    files
    pap
  }}
  authenticate {{
    pap
  }}
  accounting {{
    detail
  }}
}}
"""


class FreeRadius:
    """
    Debian's ``freeradius`` in a real server's namespace, on the VIPs, for authentication and accounting.

    *clients* are those that it knows, by nothing but the address, and the secret of each. It binds *addresses*, so they
    have to be there when it starts. *password* is that of `USER`. A context manager that runs it.
    """

    def __init__(
        self, space: str, addresses: Sequence[str], clients: Mapping[str, str], password: str = PASSWORD
    ) -> None:
        self.space = space
        self._folder = tempfile.TemporaryDirectory(prefix=f"radius-{space}-")
        self.process: subprocess.Popen[bytes] | None = None
        self._mark = 0
        at = Path(self._folder.name)
        self._log, self._detail, self._output = at / "log", at / "detail", at / "output"
        kinds = [(address, kind, port) for address in addresses for kind, port in (("auth", AUTH), ("acct", ACCT))]
        (at / "radiusd.conf").write_text(
            _CONFIG.format(
                folder=at,
                clients="\n".join(_client(address, secret) for address, secret in clients.items()),
                listeners="\n".join(
                    f"  listen {{ type = {kind}\n    {_family(address)} = {address}\n    port = {port} }}"
                    for address, kind, port in kinds
                ),
            )
        )
        (at / "users").write_text(f'{USER} Cleartext-Password := "{password}"\n')

    def start(self, wait: bool = True) -> None:
        """Start it; returns when it serves."""
        self._mark = len(self.log())
        # In the foreground, with one process: it is stopped and paused like any other child.
        command = ["freeradius", "-f", "-d", self._folder.name, "-n", "radiusd"]
        with inside(self.space), self._output.open("wb") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Return once it serves."""

        def ready() -> bool:
            assert self.process
            if self.process.poll() is not None:
                raise RuntimeError(f"FreeRADIUS ended: {self._output.read_text()}{self.log()[self._mark :]}")
            return "Ready to process requests" in self.log()[self._mark :]

        wait_for(ready, "FreeRADIUS to be ready")

    def stop(self) -> None:
        """End it."""
        if self.process:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(DEADLINE)
            self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()

    def log(self) -> str:
        """All it has said."""
        return self._log.read_text() if self._log.exists() else ""

    def accepted(self) -> list[str]:
        """The clients whose users it has let in, as it saw them, one for each time."""
        return re.findall(r"Login OK: .*\(from client (\S+) ", self.log())

    def unknown(self) -> set[str]:
        """Who has asked and is no client."""
        return set(re.findall(r"from unknown client (\S+)", self.log()))

    def accounted(self) -> list[str]:
        """The addresses that accounting has come from, one for each record."""
        text = self._detail.read_text() if self._detail.exists() else ""
        return re.findall(r"Packet-Src-IP(?:v6)?-Address = (\S+)", text)


def _family(address: str) -> str:
    return "ipv6addr" if ":" in address else "ipaddr"


def _client(address: str, secret: str) -> str:
    return f"client {address} {{ {_family(address)} = {address}\n  secret = {secret} }}"


@dataclass(frozen=True)
class Said:
    """What ``radclient`` printed for one request, however often it was sent."""

    text: str

    @property
    def answers(self) -> list[tuple[str, str, int]]:
        """Of the answer its kind, the address that it came from and its length; none if it did not come."""
        found = re.findall(r"Received (\S+) Id \d+ from (\S+):\d+ to \S+ length (\d+)", self.text)
        return [(kind, source.strip("[]"), int(length)) for kind, source, length in found]

    @property
    def sent(self) -> list[int]:
        """The length of the request, once for each time that it was sent."""
        return [int(length) for length in re.findall(r"Sent \S+ Id \d+ from \S+ to \S+ length (\d+)", self.text)]


def ask(
    vip: str, client: str, secret: str, *attributes: str, verb: str = "auth", patience: float = 2.0, tries: int = 5
) -> Said:
    """
    ``radclient`` from one of the client's addresses: ``auth``, ``acct`` or ``status``.

    What has no answer after *patience* seconds is asked again, *tries* times in all, as the devices do that ask. Each
    try is a program of its own: where the clock's second turns before the answer comes, radclient (3.2.7) does not take
    it, and may end without a word about what else it was given to ask.
    """
    kind = "IPv6-Address" if ":" in client else "IP-Address"
    port = ACCT if verb == "acct" else AUTH
    server = f"[{vip}]:{port}" if ":" in vip else f"{vip}:{port}"
    request = "\n".join((f"Packet-Src-{kind} = {client}", *attributes)) + "\n"
    command = ["radclient", "-x", "-r", "1", "-t", str(patience), server, verb, secret]
    said = Said("")
    for _ in range(tries):
        with inside(CLIENT):
            done = subprocess.run(command, input=request, capture_output=True, text=True, check=False)
        said = Said(said.text + done.stdout + done.stderr)
        if said.answers:
            break
    return said


def login(name: str = USER, password: str = PASSWORD) -> tuple[str, ...]:
    """The attributes of an authentication."""
    return (f'User-Name = "{name}"', f'User-Password = "{password}"', "Message-Authenticator = 0x00")


def record(session: str) -> tuple[str, ...]:
    """The attributes of an accounting record."""
    return (f'User-Name = "{USER}"', "Acct-Status-Type = Start", f'Acct-Session-Id = "{session}"')
