"""Protects the server from the network: who may send requests, how much is read, and how a request is refused."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DRAIN_SECONDS = 2.0  # for so long the rest of a refused request is read and thrown away
HEADERS = {  # of every answer: the page loads nothing from elsewhere, is in no frame, and is not stored
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class RequestRefused(Exception):
    """A request is refused: the HTTP status, a message of one line, further headers."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


class ErrorResponse(JSONResponse):
    """The response {error: message}. A client that still sends gets DRAIN_SECONDS seconds to stop: were the connection
    closed at once, many clients would see a broken connection instead of the message."""

    def __init__(self, refused: RequestRefused) -> None:
        super().__init__({"error": refused.message}, refused.status, refused.headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it as ASGI asks for."""
        if not scope["inbox"].ended:
            self.headers["Connection"] = "close"  # else a body without end would be read on and on
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(scope["inbox"].rest(), DRAIN_SECONDS)
        await send({"type": "http.response.body", "body": b""})


class Inbox:
    """The messages of a request, and whether its body has come to its end."""

    def __init__(self, receive: Receive) -> None:
        self.receive, self.ended = receive, False

    async def __call__(self) -> Message:
        """The next message."""
        message = await self.receive()
        self.ended = self.ended or not message.get("more_body")
        return message

    async def rest(self) -> None:
        """Read the rest of the body and throw it away."""
        while not self.ended:
            await self()


class Guard:
    """An ASGI application around another: refuses requests for a foreign host name or from a foreign page, and adds
    HEADERS to every answer.

    Another site can make its own name resolve to this server (DNS rebinding); then the browser sends that name as Host.
    It cannot do so with a numeric address.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        """`host` is the name or address that the server was started with."""
        self.app = app
        self.names = {name.lower() for name in ("localhost", host, socket.gethostname(), socket.getfqdn())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        scope["inbox"] = inbox = Inbox(receive)  # for ErrorResponse
        refused = self.refused(scope["method"], Headers(scope=scope))
        await (ErrorResponse(refused) if refused else self.app)(scope, inbox, with_headers)

    def refused(self, method: str, headers: Headers) -> RequestRefused | None:
        """Why a request is not answered, None if it is."""
        host = headers.get("host", "").lower()
        if not self.is_own(host):
            return RequestRefused(
                403, f"this server is not called {host[:100]!r}; use its address, or start it with --host"
            )
        origin = headers.get("origin")
        if method in ("GET", "HEAD") or origin is None or urlsplit_or_none(origin) == host:
            return None
        return RequestRefused(403, f"a page of {origin[:100]!r} may not ask this server; open the server's own page")

    def is_own(self, host: str) -> bool:
        """Whether a Host header is one of this server's names, or a numeric address."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        with contextlib.suppress(ValueError):
            return bool(ipaddress.ip_address(name))
        return name in self.names


def urlsplit_or_none(origin: str) -> str | None:
    """The host and port of an Origin header, None if it has none."""
    try:
        return urlsplit(origin.lower()).netloc or None
    except ValueError:
        return None


async def read_body(request: Request, limit: int) -> bytes:
    """A request's body. Raises RequestRefused as soon as it exceeds `limit` bytes."""
    message = f"the request has more than {limit:,} bytes, which is the limit; split it"
    if int(request.headers.get("content-length", 0)) > limit:
        raise RequestRefused(413, message)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise RequestRefused(413, message)
        parts.append(part)
    return b"".join(parts)


async def file_of_form(request: Request, body: bytes) -> bytes:
    """The file, or else the text, of a multipart body; another body unchanged. Raises RequestRefused if it
    cannot be read, or has not exactly one part."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return body

    async def stream() -> Any:
        yield body

    parser = MultiPartParser(request.headers, stream(), max_files=1, max_fields=1, max_part_size=len(body))
    parser.spool_max_size = len(body) + 1  # nothing is put on a disk
    try:
        parts = (await parser.parse()).multi_items()
    except (MultiPartException, KeyError) as error:
        raise RequestRefused(
            400, f"the form cannot be read ({error}); send one file, or the file as the body"
        ) from None
    if len(parts) != 1:
        raise RequestRefused(400, f"the form has {len(parts)} parts; send one file, or one text")
    value = parts[0][1]
    return value.encode() if isinstance(value, str) else await value.read()
