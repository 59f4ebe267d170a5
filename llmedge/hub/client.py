"""One endpoint of the Hub: listings by huggingface_hub, bytes by plain HTTP ranges.

Nothing here tries twice: who asks decides whether to ask again.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

import llmedge
from llmedge.core.closable import Closable
from llmedge.core.errors import IntegrityError, NetworkError, UsageError
from llmedge.hub.refusals import portal, refusal, transport_error
from llmedge.hub.repository import RemoteFile, Repository

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# Else its first call asks the Hub for a list of programs that might be running this one.
constants.HF_HUB_DISABLE_TELEMETRY = True

_TIMEOUT_S = 20.0  # without a byte; a slow line that moves is never cut
_MAX_REDIRECTS = 6
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_REDIRECTS = (301, 302, 303, 307, 308)


class Body:
    """The bytes of a file, from some place on.

    Attributes:
        start: Where they begin: 0 where the server does not know ranges.
    """

    def __init__(self, start: int, response: httpx2.Response) -> None:
        self.start = start
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        """Give the bytes as they arrive; nothing is held back, so a cut loses nothing."""
        return self._response.iter_raw()


class Hub(Closable):
    """The Hub, or a mirror of it.

    Args:
        endpoint: Its address, without a slash at the end.
        token: Who asks; sent to this address only.
        timeout_s: How long no byte may come.
    """

    def __init__(
        self, endpoint: str, token: str | None = None, timeout_s: float = _TIMEOUT_S
    ) -> None:
        self._endpoint, self._token, self._timeout_s = httpx2.URL(endpoint), token, timeout_s
        self._base = endpoint
        agent = f"llmedge/{llmedge.__version__}"
        # False, not None: the library would look for a token of its own.
        self._api = HfApi(endpoint=endpoint, token=token or False, user_agent=agent)
        self._client = httpx2.Client(
            timeout=timeout_s,
            follow_redirects=False,
            headers={"Accept-Encoding": "identity", "User-Agent": agent},
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def describe(self, repo: str, revision: str | None = None) -> Repository:
        """Return what a repository holds.

        Raises:
            ConnectionLostError: The line broke, or the Hub is busy.
            NetworkError: Access is refused, or something else than the Hub answers.
            NotFoundError: There is no such repository or revision.
            UsageError: It cannot be a repository's name.
            IntegrityError: The listing names files that cannot be.
        """
        what = f"{repo}@{revision}" if revision else repo
        try:
            info = self._api.model_info(
                repo, revision=revision, files_metadata=True, timeout=self._timeout_s
            )
        except HfHubHTTPError as error:
            has_token = self._token is not None
            raise refusal(error.response, what, has_token=has_token, is_hub=True) from None
        except httpx2.RequestError as error:
            raise transport_error(error, what) from None
        except HFValidationError as error:
            raise UsageError(f"{repo!r} is no repository's name: {error}", "ORG/NAME") from None
        except json.JSONDecodeError:
            raise portal(what) from None
        if not info.sha or not re.fullmatch(r"[0-9a-f]{40}", info.sha):
            raise IntegrityError(f"the hub names the commit {info.sha!r} of {what}")
        files = [
            RemoteFile(
                sibling.rfilename,
                (sibling.lfs.size if sibling.lfs else sibling.size) or 0,
                (sibling.lfs.sha256 if sibling.lfs else sibling.blob_id) or "",
            )
            for sibling in info.siblings or []
        ]
        card = info.card_data.get("license") if info.card_data else None
        return Repository(
            info.id,
            info.sha,
            is_gated=bool(info.gated),
            license=card if isinstance(card, str) else None,
            files=tuple(sorted(files, key=lambda file: file.path)),
        )

    @contextlib.contextmanager
    def open(
        self, repository: Repository, file: RemoteFile, offset: int, end: int | None = None
    ) -> Generator[Body]:
        """Ask for a file's bytes from a place on; the Hub is asked anew where they lie.

        Args:
            repository: Where the file is.
            file: Which one.
            offset: The first byte wanted.
            end: The byte after the last one wanted; a server that knows no ranges sends more.

        Raises:
            ConnectionLostError: The line broke, here or while the bytes are read.
            NetworkError: Access is refused, or a web page came instead.
            NotFoundError: The file is gone.
            IntegrityError: The server's file has another size.
        """
        what = f"{repository.repo}/{file.path}"
        place = f"{repository.repo}/resolve/{repository.commit}/{quote(file.path)}"
        last = "" if end is None else end - 1
        headers = {"Range": f"bytes={offset}-{last}"} if offset or end is not None else {}
        try:
            response = self._get(httpx2.URL(f"{self._base}/{place}"), headers, what)
            try:
                yield Body(self._start(response, file, offset, what), response)
            finally:
                response.close()
        except httpx2.RequestError as error:
            raise transport_error(error, what) from None
        except httpx2.InvalidURL as error:
            raise NetworkError(f"{what}: the server sends us to no address: {error}") from None

    def _get(self, url: httpx2.URL, headers: dict[str, str], what: str) -> httpx2.Response:
        for _ in range(_MAX_REDIRECTS):
            allowed = self._token is not None and _is_same_host(url, self._endpoint)
            auth = {"Authorization": f"Bearer {self._token}"} if allowed else {}
            request = self._client.build_request("GET", url, headers=headers | auth)
            response = self._client.send(request, stream=True)
            if response.status_code not in _REDIRECTS:
                return response
            response.close()
            url = url.join(response.headers.get("Location", ""))
        raise NetworkError(f"{what}: the server sends us round in circles", "try again later")

    def _start(self, response: httpx2.Response, file: RemoteFile, offset: int, what: str) -> int:
        if response.status_code not in (200, 206):
            is_hub = _is_same_host(response.url, self._endpoint)
            raise refusal(response, what, has_token=self._token is not None, is_hub=is_hub)
        kind = response.headers.get("Content-Type", "")
        if kind.startswith("text/html") and not file.path.endswith((".html", ".htm")):
            raise portal(what)
        if response.status_code == 200:
            return 0
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        start = int(match[1]) if match else offset
        if start > offset or (match and match[3] not in ("*", str(file.n_bytes))):
            message = f"{what}: asked for bytes from {offset} of {file.n_bytes}, the server sends"
            raise IntegrityError(f"{message} {response.headers.get('Content-Range')}")
        return start


def _is_same_host(one: httpx2.URL, other: httpx2.URL) -> bool:
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)
