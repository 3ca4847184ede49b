"""
HTTP, in a thread of its own: nothing that happens here makes the loop wait.

One request to a connection, and ten seconds for a connection from its first byte to its last, whatever it does: who
trickles, never reads or never ends is cut off (`web.connections`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import logging
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, StreamClosedError

from dsr_agent.service.journal import Kind, carrying
from dsr_agent.service.metrics.collector import HttpCounts, Metrics
from dsr_agent.service.web import sockets
from dsr_agent.service.web.changes import Changes
from dsr_agent.service.web.connections import Connections
from dsr_agent.service.web.endpoints import NOT_ALLOWED, Endpoints, Response

log = logging.getLogger(__name__)

LONGEST = 10.0
HEADER_SIZE = 16 << 10
BODY_SIZE = 4 << 10
OWN_BODY_SIZE = 1 << 20  # this host's own tools may name 10,000 VIPs
# More than the server accepts in one go (128), so that a request that has come is looked at before it is the oldest.
PLACES = 256
# One rendering serves everybody who asks within this time: a connections of scrapers costs what one does.
SHARED_FOR = 1.0
FIRST_RETRY, LONGEST_RETRY = 1.0, 30.0


@dataclass
class _Rendered:
    answer: Response
    at: float
    packed: bytes = b""

    def gzipped(self) -> bytes:
        if not self.packed:
            self.packed = gzip.compress(self.answer.body, compresslevel=2, mtime=0)
        return self.packed


@dataclass
class Site:
    """What is served: answers and metrics, what may be changed, and what the server counts about itself."""

    answers: Endpoints
    metrics: Metrics
    http: HttpCounts
    changes: Changes
    _kept: dict[tuple[str, str], _Rendered] = field(default_factory=dict)

    def render(self, method: str, path: str, accept: str, own: bool) -> _Rendered:
        """What to send back; large answers are shared by those who ask at the same time, but for this host's *own*."""
        now = time.monotonic()
        if method not in ("GET", "HEAD"):
            return _Rendered(NOT_ALLOWED, now)
        if path not in ("/metrics", "/status"):
            return _Rendered(self.answers(path), now)
        key = (path, accept if path == "/metrics" else "")
        kept = self._kept.get(key)
        if kept is None or own or now - kept.at > SHARED_FOR:
            metrics = path == "/metrics"
            answer = Response(200, *self.metrics.render(accept)) if metrics else self.answers(path)
            self._kept = {k: v for k, v in self._kept.items() if now - v.at <= SHARED_FOR}
            kept = self._kept[key] = _Rendered(answer, time.monotonic())
        return kept


class _Request(HTTPMessageDelegate):
    """One request, answered when all of it has come."""

    def __init__(self, connection: HTTPConnection, site: Site, own: bool, uid: int | None) -> None:
        self._connection = connection
        self._own = own
        self._uid = uid
        self._site = site
        self._body = b""
        self._method = self._path = self._accept = self._encoding = ""

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        """See `HTTPMessageDelegate`."""
        assert isinstance(start_line, RequestStartLine)
        self._method, self._path = start_line.method, start_line.path.partition("?")[0]
        self._accept = headers.get("Accept", "")[:1000]
        self._encoding = headers.get("Accept-Encoding", "")

    def data_received(self, chunk: bytes) -> None:
        """See `HTTPMessageDelegate`."""
        if self._own:
            self._body += chunk

    def finish(self) -> None:
        """See `HTTPMessageDelegate`."""
        if self._own and self._method == "POST" and self._path in self._site.changes.paths:
            # A disk may take its time, and health is served by this thread.
            work = functools.partial(self._site.changes, self._path, self._body, self._uid)
            asyncio.get_running_loop().run_in_executor(None, work).add_done_callback(self._changed)
            return
        self._answer(self._site.render(self._method, self._path, self._accept, self._own))

    def _changed(self, done: asyncio.Future[Response]) -> None:
        if not done.cancelled():
            with contextlib.suppress(StreamClosedError):
                self._answer(_Rendered(done.result(), time.monotonic()))

    def _answer(self, rendered: _Rendered) -> None:
        status, content_type, body = rendered.answer
        headers = HTTPHeaders({"Content-Type": content_type, "Cache-Control": "no-store", "Vary": "Accept-Encoding"})
        if len(body) > 1400 and "gzip" in self._encoding:
            body = rendered.gzipped()
            headers["Content-Encoding"] = "gzip"
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = "GET, HEAD"
        headers["Content-Length"] = str(len(body))
        start = ResponseStartLine("HTTP/1.1", status, HTTPStatus(status).phrase)
        # Apart, so that the body is shared with others who are sent it, and not copied.
        self._send(self._connection.write_headers(start, headers))
        if self._method != "HEAD":
            self._send(self._connection.write(body))
        self._connection.finish()

    @staticmethod
    def _send(sending: asyncio.Future[None]) -> None:
        sending.add_done_callback(lambda sent: sent.cancelled() or sent.exception())  # it has gone away


class _Guarded(HTTPServer):
    """A server that tells `Connections` who comes and goes."""

    def initialize(  # type: ignore[override]
        self, site: Site, connections: Connections, context: ssl.SSLContext | None, own: bool
    ) -> None:
        """Tornado's way of `__init__`; *own* is the door for this host's own tools."""
        self._own = own
        self._site = site
        self._watched = connections
        super().initialize(
            HTTPServerConnectionDelegate(),
            no_keep_alive=True,
            ssl_options=context,
            max_header_size=HEADER_SIZE,
            max_body_size=OWN_BODY_SIZE if own else BODY_SIZE,
            max_buffer_size=4 * HEADER_SIZE,
            idle_connection_timeout=2
            * LONGEST,  # the longest a connection may last is over long before, and is counted
            body_timeout=2 * LONGEST,
        )

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """See `HTTPServer`."""
        self._site.http.accepted += 1
        self._watched.enter(stream, address[0] if isinstance(address, tuple) else "")
        super().handle_stream(stream, address)

    def start_request(self, server_conn: Any, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """See `HTTPServerConnectionDelegate`."""
        return _Request(request_conn, self._site, self._own, _uid(server_conn) if self._own else None)

    def on_close(self, server_conn: Any) -> None:
        """See `HTTPServerConnectionDelegate`."""
        self._watched.leave(server_conn.stream)
        super().on_close(server_conn)


def _uid(connection: Any) -> int | None:
    """Who asks by the unix socket; None if that cannot be known any more."""
    try:
        found = connection.stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    except (OSError, AttributeError):
        return None
    return int(struct.unpack("iii", found)[1])


class Web:
    """The thread that serves *site*, wherever `change` says. All methods are for other threads, and none waits."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._wanted = sockets.Wanted()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._servers: dict[str, _Guarded] = {}
        self._context: ssl.SSLContext | None = None
        self._told: dict[str, str] = {}
        self._reread = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self, wanted: sockets.Wanted) -> None:
        """Begin."""
        self._wanted = wanted
        self._thread.start()

    def change(self, wanted: sockets.Wanted) -> None:
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
        cut = self._site.http.cut

        def count(why: str) -> None:
            cut[why] += 1

        # The unix socket is for this host's own tools: many clients of the network do not keep them out.
        connections, own_connections = (
            Connections(places, LONGEST, loop.call_later, count) for places in (PLACES, PLACES // 4)
        )
        delay = FIRST_RETRY
        try:
            while not self._stopping:
                self._changed.clear()
                missing = await self._tend(connections, own_connections)
                delay = min(delay * 2, LONGEST_RETRY) if missing else FIRST_RETRY
                try:
                    await asyncio.wait_for(self._changed.wait(), delay if missing else None)
                    delay = FIRST_RETRY
                except TimeoutError:
                    continue
        finally:
            for place in list(self._servers):
                self._shut(place)

    async def _tend(self, connections: Connections, own_connections: Connections) -> bool:
        """Open what is wanted and not open, close what is not wanted; whether something is still missing."""
        wanted = self._wanted
        secure = self._tend_tls(wanted.tls)
        places = {wanted.socket} if wanted.socket else set()
        if secure:
            places |= set(wanted.listen)
        for place in self._servers.keys() - places:
            self._shut(place)
        self._site.http.listening = dict.fromkeys(sorted(set(wanted.listen)), False)
        for place in sorted(places, key=lambda place: (place != wanted.socket, not _literal(place), place)):
            if place not in self._servers:
                own = place == wanted.socket
                await self._open(place, own, own_connections if own else connections)
            elif place != wanted.socket:
                self._servers[place].ssl_options = self._context
            if place in self._site.http.listening:
                self._site.http.listening[place] = place in self._servers
        return not secure or not places <= self._servers.keys()

    def _shut(self, place: str) -> None:
        self._servers.pop(place).stop()
        if place.startswith("/"):
            with contextlib.suppress(OSError):
                os.unlink(place)

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
                self._tell("TLS", f"the certificate cannot be used, {goes_on}: {sockets.why(error)}")
                return self._context is not None
            self._tell("TLS", "")
        return True

    async def _open(self, place: str, own: bool, connections: Connections) -> None:
        def tell(text: str) -> None:
            self._tell(f"{place} ", text)

        try:
            if own:
                opened = [sockets.open_unix(place)]
            elif _literal(place):
                opened = sockets.open_tcp(*sockets.split(place), tell)
            else:
                opened = await _aside(lambda: sockets.open_tcp(*sockets.split(place), tell))
        except OSError as error:
            self._tell(place, f"cannot serve HTTP on {place}, trying again: {sockets.why(error)}")
            return
        server = _Guarded(self._site, connections, None if own else self._context, own)
        server.add_sockets(opened)
        self._servers[place] = server
        self._tell(place, "")

    def _tell(self, about: str, trouble: str) -> None:
        """Say *trouble* once; and that it is over."""
        before = self._told.get(about, "")
        self._told[about] = trouble
        if trouble and trouble != before:
            log.warning("%s", trouble, extra=carrying(Kind.HTTP))
        elif before and not trouble:
            log.info("serving HTTP on %s again", about, extra=carrying(Kind.HTTP))


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
