"""What the Hub's refusals mean, and what to do about each."""

from __future__ import annotations

import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from llmedge.core.errors import (
    ConnectionLostError,
    LlmedgeError,
    NetworkError,
    NotFoundError,
)

if TYPE_CHECKING:
    import httpx2

_BUSY = (408, 425, 429)
_EXPIRED = (401, 403, 410)
_PORTAL_STATUS = 511  # RFC 6585: network authentication required
_PORTAL_HINT = "open a page in a browser, log in to the network, and run the same again"


def refusal(response: httpx2.Response, what: str, *, has_token: bool, is_hub: bool) -> LlmedgeError:
    """Return the error for an answer that brings nothing.

    Args:
        response: The answer; its body is not read.
        what: What was asked for.
        has_token: Whether a token was sent.
        is_hub: Whether the Hub itself answered, not a host that it sent us to.
    """
    status = response.status_code
    if status == _PORTAL_STATUS:
        return portal(what)
    if status in _BUSY or status >= 500:
        wait = _retry_after_s(response.headers.get("Retry-After", ""))
        return ConnectionLostError(f"{what}: the server answers {status}", retry_after_s=wait)
    if not is_hub and status in _EXPIRED:  # a signed address that has run out
        return ConnectionLostError(f"{what}: the address has expired ({status})")
    return _final(status, response.headers.get("X-Error-Code", ""), what, has_token=has_token)


def portal(what: str) -> NetworkError:
    """Return the error for a web page where a file was asked for."""
    message = f"{what}: a web page came instead, as from the login page of a public network"
    return NetworkError(message, _PORTAL_HINT)


def transport_error(error: httpx2.RequestError, what: str) -> NetworkError:
    """Return ours for an error of the line."""
    reason = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        hint = "a login page or a proxy in between? SSL_CERT_FILE names its certificate"
        return NetworkError(f"{what}: the server's certificate is not trusted", hint)
    return ConnectionLostError(f"{what}: {reason}", "check the connection, and run the same again")


def _final(status: int, code: str, what: str, *, has_token: bool) -> LlmedgeError:
    if code == "GatedRepo":
        return _gated(what, has_token=has_token)
    if code == "RevisionNotFound":
        return NotFoundError(f"{what}: no such revision", "name a branch, a tag or a commit")
    if status in (401, 403):
        return _no_access(what, status, has_token=has_token)
    if status == 404:
        return NotFoundError(f"{what} is not on the hub", "check the spelling of ORG/NAME")
    return NetworkError(f"{what}: the server answers {status}", "try again later")


def _gated(what: str, *, has_token: bool) -> NetworkError:
    if has_token:
        hint = "accept the licence on the model's page with the account that the token belongs to"
    else:
        hint = "accept the licence on the model's page, then set HF_TOKEN or run `hf auth login`"
    return NetworkError(f"{what} is gated: its files want an accepted licence", hint)


def _no_access(what: str, status: int, *, has_token: bool) -> NetworkError:
    if has_token:
        hint = "check the spelling, and that the token in HF_TOKEN may read it"
    else:
        hint = "check the spelling; for a private model set HF_TOKEN or run `hf auth login`"
    return NetworkError(f"{what} is not there, or not for everyone ({status})", hint)


def _retry_after_s(text: str) -> float | None:
    """Read a Retry-After header: seconds or a date."""
    if text.isascii() and text.isdigit() and len(text) < 9:
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        return max(0.0, (when - datetime.datetime.now(datetime.UTC)).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a zone
        return None
