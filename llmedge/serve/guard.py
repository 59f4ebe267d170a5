"""Who may ask: hosts, origins, API keys, content types, and how much may be sent in which time.

Nothing here knows what is asked; a request that gets through has its whole body.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response

from llmedge.core.errors import UsageError
from llmedge.serve.errors import refusal
from llmedge.serve.request_log import current_record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")

_MIN_KEY_CHARS = 8
_OPEN_PATHS = frozenset(["/health", "/ready", "/v1/health"])
_BODY_METHODS = frozenset(["POST", "PUT", "PATCH", "DELETE"])
_SAFE_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_MAX_PREFLIGHT_HEADERS = 32
_DISCARD_S = 3.0


@dataclass(frozen=True, slots=True)
class GuardOptions:
    """Who may ask.

    Attributes:
        hosts: Names in the `Host` header that are answered, without ports; `*` answers all.
        allows_addresses: Any IP address as a host, too. No foreign name can be made to point
            here by it, which is what the list of hosts is for.
        origins: Values of `Origin` that are answered; pages of all others are refused.
        api_keys: One of them must be shown; none asks for none.
        max_body_bytes: Most bytes of one body.
        max_buffered_bytes: Most bytes of all bodies that are being received.
        body_s: Seconds in which a body must have come.
        salt: Hides the keys in what tells their owners' cached prefixes apart.
    """

    hosts: frozenset[str] = frozenset(LOOPBACK_HOSTS)
    allows_addresses: bool = False
    origins: frozenset[str] = frozenset()
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    max_body_bytes: int = 4 << 20
    max_buffered_bytes: int = 64 << 20
    body_s: float = 30.0
    salt: bytes = field(default_factory=lambda: secrets.token_bytes(16), repr=False, compare=False)


def guard_for(
    host: str,
    *,
    api_keys: tuple[str, ...] = (),
    allow_anonymous: bool = False,
    hosts: Iterable[str] = (),
    origins: Iterable[str] = (),
) -> GuardOptions:
    """Return the guard for an address to listen on.

    Args:
        host: The address.
        api_keys: Keys that let a client in.
        allow_anonymous: Answer everybody who reaches the address.
        hosts: Further names of this machine.
        origins: Web pages that may ask.

    Raises:
        UsageError: Others could reach the address and need no key, or a value cannot be meant.
    """
    if any(len(key) < _MIN_KEY_CHARS or not key.isascii() for key in api_keys):
        raise UsageError(
            f"an API key is shorter than {_MIN_KEY_CHARS} characters or not ASCII",
            "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one",
        )
    if "*" in origins:
        raise UsageError("the origin * would let any web page ask", "name the pages' origins")
    is_local = host in LOOPBACK_HOSTS
    if not is_local and not api_keys and not allow_anonymous:
        raise UsageError(
            f"others can reach {host}, and there is no API key",
            "set LLMEDGE_API_KEYS or --api-key-file, or say --allow-anonymous",
        )
    names = {*LOOPBACK_HOSTS, *(name.lower() for name in hosts)}
    if not is_local:
        own = socket.gethostname().lower()
        names |= {host.lower(), own, f"{own}.local"}
    return GuardOptions(
        hosts=frozenset(names),
        allows_addresses=not is_local,
        origins=frozenset(origins),
        api_keys=tuple(api_keys),
    )


class Refused(Exception):  # noqa: N818 - what happened
    """A request is not let in."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code

    def response(self, path: str) -> Response:
        """Return the answer."""
        current_record().error = self.code
        return refusal(self.status, self.message, self.code, path)


class Guard:
    """Lets requests in or refuses them, and hands on whole bodies.

    Args:
        app: What to guard.
        options: Who may ask.
    """

    def __init__(self, app: ASGIApp, options: GuardOptions) -> None:
        self._app = app
        self._options = options
        self._digests = [_digest(key) for key in options.api_keys]
        self._salt = options.salt
        self._n_buffered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it with a refusal."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        try:
            self._check_host(headers.get("host", ""))
            self._check_origin(origin)
        except Refused as error:
            await error.response(scope["path"])(scope, receive, send)
            return
        if origin is not None:
            send = _with_cors(send, origin)
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await _preflight(headers)(scope, receive, send)
                return
        upload = _Upload(receive)
        try:
            if scope["path"] not in _OPEN_PATHS:
                self._check_key(headers)
            if scope["method"] in _BODY_METHODS:
                _check_content_type(headers)
                receive = await self._with_body(headers, upload)
        except Refused as error:
            if "expect" not in headers:
                await upload.discard(4 * self._options.max_body_bytes)
            response = error.response(scope["path"])
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check_host(self, host: str) -> None:
        """Refuse a name that a page from elsewhere could have pointed here (DNS rebinding)."""
        name = _without_port(host).lower()
        options = self._options
        if "*" in options.hosts or name in options.hosts:
            return
        if not (options.allows_addresses and _is_address(name)):
            raise Refused(400, f"the host {host[:80]!r} is not served here", "host_not_allowed")

    def _check_origin(self, origin: str | None) -> None:
        if origin is not None and origin not in self._options.origins:
            raise Refused(403, f"pages of {origin[:80]!r} may not ask here", "origin_not_allowed")

    def _check_key(self, headers: Headers) -> None:
        """Look for a valid key; its owner's cached prefixes are kept apart from all others'."""
        if not self._digests:
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        shown = [bearer.strip()] if scheme.lower() == "bearer" else []
        shown += [headers["x-api-key"]] if "x-api-key" in headers else []
        for key in shown:
            digest = _digest(key)
            # Each is compared to its end, whatever the others said.
            matches = [hmac.compare_digest(digest, known) for known in self._digests]
            if any(matches):
                salted = hashlib.blake2b(digest, key=self._salt, digest_size=16)
                current_record().cache_key = salted.hexdigest()
                return
        message = "the API key is not valid" if shown else "an API key is needed"
        raise Refused(401, message, "invalid_api_key")

    async def _with_body(self, headers: Headers, receive: _Upload) -> Receive:
        """Receive the whole body, and return what hands it on."""
        limit = self._options.max_body_bytes
        announced = headers.get("content-length", "")
        if announced.isdecimal() and (len(announced) > 18 or int(announced) > limit):
            raise _too_large(limit)
        body = bytearray()
        n_counted = 0
        try:
            async with asyncio.timeout(self._options.body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return _again(message, receive)
                    part = message.get("body", b"")
                    body += part
                    n_counted += len(part)
                    self._n_buffered += len(part)
                    if len(body) > limit:
                        raise _too_large(limit)
                    if self._n_buffered > self._options.max_buffered_bytes:
                        raise Refused(503, "too many bodies at once", "busy")
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise Refused(
                408, f"the body did not come within {self._options.body_s:g} s", "request_timeout"
            ) from None
        finally:
            self._n_buffered -= n_counted
        return _again({"type": "http.request", "body": bytes(body), "more_body": False}, receive)


class _Upload:
    """A request's body as it comes; remembers whether it has ended."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._has_ended = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self._has_ended = not message.get("more_body", False)
        return message

    async def discard(self, n_bytes: int) -> None:
        """Read what is left, within reason: many clients only listen once they have sent."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_S):
                while not self._has_ended and n_bytes > 0:
                    n_bytes -= len((await self()).get("body", b""))


def _check_content_type(headers: Headers) -> None:
    """Refuse what a form on a page from elsewhere can send without being asked first."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = f"the content type is {kind[:80]!r}, not application/json"
        raise Refused(400, message, "content_type")


def _too_large(limit: int) -> Refused:
    return Refused(413, f"the request has more than {limit} bytes", "request_too_large")


def _again(first: Message, receive: Receive) -> Receive:
    waiting = [first]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again


def _with_cors(send: Send, origin: str) -> Send:
    async def send_with_cors(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = "X-Llmedge-Ignored, X-Request-Id"
            headers.add_vary_header("Origin")
        await send(message)

    return send_with_cors


def _preflight(headers: Headers) -> Response:
    wanted = headers.get("access-control-request-headers", "").split(",")
    names = [name.strip() for name in wanted[:_MAX_PREFLIGHT_HEADERS]]
    answer = {
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": ", ".join(n for n in names if _SAFE_HEADER.fullmatch(n)),
        "Access-Control-Max-Age": "600",
    }
    if headers.get("access-control-request-private-network") == "true":
        answer["Access-Control-Allow-Private-Network"] = "true"
    return Response(status_code=204, headers=answer)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


def _is_address(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return False
