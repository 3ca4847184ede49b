"""One question to one application: whatever happens, it comes to an `Answer`."""

from __future__ import annotations

import asyncio
import errno
import importlib
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from dsr_agent.config.check_settings import CheckSettings
from dsr_agent.state.model import Ip
from dsr_agent.truth.checks import Answer, FailureReason


@dataclass(frozen=True, slots=True)
class Target:
    """
    Who is asked, and from where, in which *vrf*. *service* as the file writes it; empty if a command is about none.
    """

    ip: Ip
    service: str
    source: Ip
    vrf: str = ""

    @property
    def port(self) -> int:
        return int(self.service.partition("/")[2] or 0)

    def __str__(self) -> str:
        host = f"[{self.ip}]" if self.ip.version == 6 else str(self.ip)
        return f"{host}:{self.port}"


def bound(opened: socket.socket, target: Target) -> socket.socket:
    """*opened*, bound to where the question comes from; closed if it cannot be. Raises `OSError`."""
    try:
        if target.vrf:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, target.vrf.encode())
        opened.bind((str(target.source), 0))
    except OSError:
        opened.close()
        raise
    return opened


class CannotAskError(Exception):
    """It could not even be asked, and why."""


Asker: TypeAlias = Callable[[CheckSettings, Target], Awaitable[Answer]]

# With these nothing has left this host, or nothing could: the address to ask from is gone, a local rule forbids it.
_NOT_SENT = frozenset({errno.EADDRNOTAVAIL, errno.EPERM, errno.EACCES, errno.EMFILE, errno.ENFILE, errno.ENOBUFS})
_NOT_SENT |= {errno.ENOMEM, errno.ENETUNREACH, errno.EAFNOSUPPORT, errno.EADDRINUSE, errno.EINVAL}


async def learn(protocol: str) -> None:
    """Import what asking by *protocol* takes, aside from the loop: only what is declared costs anything."""
    await asyncio.to_thread(importlib.import_module, _module(protocol))


def _module(protocol: str) -> str:
    return f"dsr_agent.service.checks.{'http' if protocol == 'https' else protocol}"


async def ask(check: CheckSettings, target: Target) -> Answer:
    """The answer of *target*, at most `check.timeout` seconds from now. Raises nothing but `CancelledError`."""
    began = time.monotonic()
    try:
        asker: Asker = importlib.import_module(_module(check.protocol)).ask
        answer = await asker(check, target)
    except TimeoutError:
        answer = Answer(
            FailureReason.TIMEOUT, f"no answer from {target} within {check.timeout:g} s", _silence(check, target)
        )
    except CannotAskError as error:
        answer = Answer(FailureReason.ERROR, str(error))
    except ConnectionRefusedError:
        answer = Answer(FailureReason.REFUSED, f"{target} refuses", "nobody listens there")
    except (ConnectionResetError, BrokenPipeError, asyncio.IncompleteReadError):
        answer = Answer(
            FailureReason.BAD_ANSWER, f"{target} closed the connection without an answer", _silence(check, target)
        )
    except OSError as error:
        # An address to ask from of the other version of IP is a name that cannot be resolved, to the library.
        unsent = isinstance(error, socket.gaierror) or error.errno in _NOT_SENT
        reason = FailureReason.ERROR if unsent else FailureReason.REFUSED
        answer = Answer(reason, f"{target} cannot be reached from {target.source}: {error.strerror or 'unknown error'}")
    except Exception as error:  # a check that stumbles says nothing of the VIP; and what it stumbled over may be secret
        answer = Answer(FailureReason.ERROR, f"the check failed ({type(error).__name__})")
    return answer._replace(seconds=time.monotonic() - began)


def _silence(check: CheckSettings, target: Target) -> str:
    """What silence may mean, beside that it hangs."""
    if check.protocol == "radius" or (check.protocol == "tacacs" and _has_secret(check)):
        return f"it hangs, or does not know {target.source} as a client, or has another secret for it"
    return ""


def _has_secret(check: CheckSettings) -> bool:
    return check.secret is not None or check.secret_file is not None
