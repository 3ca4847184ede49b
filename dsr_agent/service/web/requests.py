"""
One request of HTTP, answered when all of it has come, and the server that takes them.

One request to a connection, and ten seconds for a connection from its first byte to its last, whatever it does: who
trickles, never reads or never ends is cut off (`web.connections`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import socket
import ssl
import struct
import time
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

from dsr_agent.service.metrics.collector import HttpCounts, Metrics
from dsr_agent.service.web.changes import ChangeRequests
from dsr_agent.service.web.connections import Connections
from dsr_agent.service.web.endpoints import NOT_ALLOWED, Endpoints, Response

LONGEST = 10.0
HEADER_SIZE = 16 << 10
BODY_SIZE = 4 << 10
OWN_BODY_SIZE = 1 << 20  # this host's own tools may name 10,000 VIPs
# One rendering serves everybody who asks within this time: a crowd of scrapers costs what one does.
SHARED_FOR = 1.0


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
    changes: ChangeRequests
    _kept: dict[tuple[str, str], _Rendered] = field(default_factory=dict)

    def agent_check(self, name: str) -> str:
        """The line about one VIP, or about the host if none is named."""
        answer = self.answers.agent_check(name)
        self.http.agent_check_answers[answer.partition(" ")[0]] += 1
        return answer

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


class Guarded(HTTPServer):
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
