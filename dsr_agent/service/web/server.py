"""
All that is served, in a thread of its own: nothing that happens here makes the loop wait.

HTTP (`web.requests`) and agent checks (`web.agent_check`), each wherever the file says and the host lets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from dsr_agent.service.journal import Kind, carrying
from dsr_agent.service.web import sockets
from dsr_agent.service.web.agent_check import AgentChecks
from dsr_agent.service.web.connections import Connections
from dsr_agent.service.web.requests import LONGEST, Guarded, Site

log = logging.getLogger(__name__)

# More than the server accepts in one go (128), so that a request that has come is looked at before it is the oldest.
PLACES = 256
FIRST_RETRY, LONGEST_RETRY = 1.0, 30.0


class DoorSort(StrEnum):
    """What is served at a door."""

    OWN = "own"  # HTTP for this host's own tools, who may also change something
    HTTP = "http"
    AGENT_CHECK = "agent check"


class Door(NamedTuple):
    """Something to serve, and where: ``host:port``, or the path of a unix socket."""

    sort: DoorSort
    place: str

    def __str__(self) -> str:
        return f"{'agent checks' if self.sort is DoorSort.AGENT_CHECK else 'HTTP'} on {self.place}"


class Web:
    """The thread that serves *site*, wherever `change` says. All methods are for other threads, and none waits."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._wanted = sockets.ListenSettings()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._servers: dict[Door, Guarded | AgentChecks] = {}
        self._context: ssl.SSLContext | None = None
        self._told: dict[str, str] = {}
        self._reread = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self, wanted: sockets.ListenSettings) -> None:
        """Begin."""
        self._wanted = wanted
        self._thread.start()

    def change(self, wanted: sockets.ListenSettings) -> None:
        """Serve elsewhere from now on; files for TLS are read again even if their names are the same."""
        self._wanted = wanted
        self._reread = True
        self._nudge()

    def stop(self) -> None:
        """Stop serving, within a moment."""
        self._stopping = True
        self._nudge()
        if self._thread.ident is not None:
            self._thread.join(1.0)

    def _nudge(self) -> None:
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

    # --- in the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        # Whoever talks nonsense to this server does not get to fill the journal with it.
        logging.getLogger("tornado.general").setLevel(logging.CRITICAL)
        while not self._stopping:
            try:
                asyncio.run(self._serve())
            except Exception:  # health and metrics are not worth the data plane
                log.exception("HTTP stopped; starting it again", extra=carrying(Kind.HTTP))
                time.sleep(FIRST_RETRY)

    async def _serve(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._servers = {}
        crowds = self._crowds(loop)
        delay = FIRST_RETRY
        try:
            while not self._stopping:
                self._changed.clear()
                missing = await self._tend(crowds)
                delay = min(delay * 2, LONGEST_RETRY) if missing else FIRST_RETRY
                try:
                    async with asyncio.timeout(delay if missing else None):
                        await self._changed.wait()
                    delay = FIRST_RETRY
                except TimeoutError:
                    continue
        finally:
            for door in list(self._servers):
                self._shut(door)

    def _crowds(self, loop: asyncio.AbstractEventLoop) -> Mapping[DoorSort, Connections]:
        """Many clients of one sort of door keep nobody out at the others, this host's own tools least of all."""
        cut = self._site.http.cut

        def count(why: str) -> None:
            cut[why] += 1

        places = {DoorSort.OWN: PLACES // 4, DoorSort.HTTP: PLACES, DoorSort.AGENT_CHECK: PLACES}
        return {sort: Connections(most, LONGEST, loop.call_later, count) for sort, most in places.items()}

    async def _tend(self, crowds: Mapping[DoorSort, Connections]) -> bool:
        """Open what is wanted and not open, close what is not wanted; whether something is still missing."""
        wanted, counts = self._wanted, self._site.http
        secure = self._tend_tls(wanted.tls)
        doors = {Door(DoorSort.OWN, wanted.socket)} if wanted.socket else set()
        doors |= {Door(DoorSort.AGENT_CHECK, place) for place in wanted.agent_check}
        if secure:
            doors |= {Door(DoorSort.HTTP, place) for place in wanted.listen}
        for door in self._servers.keys() - doors:
            self._shut(door)
        counts.listening = dict.fromkeys(sorted(set(wanted.listen)), False)
        counts.agent_check_listening = dict.fromkeys(sorted(set(wanted.agent_check)), False)
        for door in sorted(doors, key=lambda door: (door.sort is not DoorSort.OWN, not _literal(door.place), door)):
            server = self._servers.get(door) or await self._open(door, crowds[door.sort])
            if door.sort is DoorSort.HTTP:
                counts.listening[door.place] = server is not None
            elif door.sort is DoorSort.AGENT_CHECK:
                counts.agent_check_listening[door.place] = server is not None
            if door.sort is DoorSort.HTTP and isinstance(server, Guarded):
                server.ssl_options = self._context
        return not secure or not doors <= self._servers.keys()

    def _shut(self, door: Door) -> None:
        self._servers.pop(door).stop()
        if door.sort is DoorSort.OWN:
            with contextlib.suppress(OSError):
                os.unlink(door.place)

    def _tend_tls(self, tls: sockets.Tls | None) -> bool:
        """Whether the network may be served: never in the clear what the file wants encrypted."""
        reread, self._reread = self._reread, False
        if tls is None:
            self._context = None
            return True
        if self._context is None or reread:
            try:
                self._context = sockets.context_of(tls)
            except OSError as error:
                goes_on = "going on with the one before" if self._context else "not serving the network without it"
                self._tell("HTTP with TLS", f"the certificate cannot be used, {goes_on}: {sockets.why(error)}")
                return self._context is not None
            self._tell("HTTP with TLS", "")
        return True

    async def _open(self, door: Door, connections: Connections) -> Guarded | AgentChecks | None:
        """Serve *door*; None when that cannot be done now."""
        place, about = door.place, str(door)
        try:
            if door.sort is DoorSort.OWN:
                opened = [sockets.open_unix(place)]
            else:

                def listen() -> list[socket.socket]:
                    return sockets.open_tcp(sockets.split(place), lambda text: self._tell(f"{about} ", text))

                opened = listen() if _literal(place) else await _aside(listen)
        except OSError as error:
            self._tell(about, f"cannot serve {about}, trying again: {sockets.why(error)}")
            return None
        server: Guarded | AgentChecks
        if door.sort is DoorSort.AGENT_CHECK:
            server = AgentChecks(self._site.agent_check, connections)
            await server.add_sockets(opened)
        else:
            own = door.sort is DoorSort.OWN
            server = Guarded(self._site, connections, None if own else self._context, own)
            server.add_sockets(opened)
        self._servers[door] = server
        self._tell(about, "")
        return server

    def _tell(self, about: str, trouble: str) -> None:
        """Say *trouble* once; and that it is over."""
        before = self._told.get(about, "")
        self._told[about] = trouble
        if trouble and trouble != before:
            log.warning("%s", trouble, extra=carrying(Kind.HTTP))
        elif before and not trouble:
            log.info("serving %s again", about, extra=carrying(Kind.HTTP))


def _literal(place: str) -> bool:
    """Whether *place* can be opened without asking a resolver."""
    host, _, _ = place.rpartition(":")
    return not host or host.startswith("[") or host.replace(".", "").isdigit()


async def _aside(make: Callable[[], Any]) -> Any:
    """What *make* returns, from a thread that nobody has to wait for at the end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: OSError | None) -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(result)

    def work() -> None:
        try:
            outcome: tuple[Any, OSError | None] = (make(), None)
        except OSError as error:
            outcome = (None, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=work, name="http-resolver", daemon=True).start()
    return await future
