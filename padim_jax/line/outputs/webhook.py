"""Decisions as JSON to a web address, each at least once."""

import hashlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, ClassVar

from padim_jax.line.outputs.address import ascii_parts, split_address
from padim_jax.line.outputs.output import Picture, Refused
from padim_jax.line.records import VERDICTS, Decision, Verdict

_TIMEOUT = 10.0  # seconds
_LATER = {408, 425, 429}  # answers of a server that wants to be asked again, besides all from 500 on
_WRONG = {401, 403, 404, 405, 410}  # answers that are about the address, not about one decision


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would be a GET without the decision."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
        """Follow none."""


class Webhook:
    """Sends each decision as a POST of JSON; the answer has to be one of 200 to 299.

    The header ``Idempotency-Key`` is the decision's id, the same whenever it is sent again, and ``X-Attempt`` counts
    the attempts. The body has the keys :data:`padim_jax.line.records.COLUMNS`.

    Args:
      url: http or https. A user's name and password in it are sent as basic authentication, and kept nowhere. Of a
        query, the name of the output has a digest alone.
      verdicts: whose decisions are sent.
      timeout: seconds to wait for an answer.

    Raises:
      ValueError: no such URL.
    """

    is_far: ClassVar[bool] = True

    def __init__(self, url: str, verdicts: Iterable[Verdict] = VERDICTS, *, timeout: float = _TIMEOUT) -> None:
        parts = split_address(url, "webhook", "https://host/path", ("http", "https"))
        place, path, query = ascii_parts(parts)
        self._url = urllib.parse.urlunsplit((parts.scheme, place, path, query, ""))
        self.name = f"webhook {urllib.parse.urlunsplit((parts.scheme, place, path, '', ''))}"
        if query:  # which may be a secret
            self.name += f"?{hashlib.sha256(query.encode()).hexdigest()[:8]}"
        self.verdicts, self._timeout = frozenset(verdicts), timeout
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if parts.username is not None:
            passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
            user, password = (urllib.parse.unquote(text or "") for text in (parts.username, parts.password))
            passwords.add_password(None, self._url, user, password, is_authenticated=True)
            handlers.append(urllib.request.HTTPBasicAuthHandler(passwords))
        self._opener = urllib.request.build_opener(*handlers)

    def deliver(self, decision: Decision, attempt: int, picture: Picture | None = None) -> None:
        """Send one decision."""
        self.send(decision.record(), decision.id, attempt)

    def send(self, message: Mapping[str, Any], id: str, attempt: int, event: str = "") -> None:
        """Send any message; one that is no decision has the header ``X-Event``."""
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": id,
            "X-Attempt": str(attempt),
            "User-Agent": f"padim-jax/{version('padim-jax')}",
        } | ({"X-Event": event} if event else {})
        request = urllib.request.Request(self._url, json.dumps(message).encode(), headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout):
                return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code >= 500 or error.code in _LATER or error.code in _WRONG:
                raise OSError(f"it answers {error.code} {error.reason}") from error
            raise Refused(f"it answers {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise OSError(f"it can't be reached ({error.reason})") from error
        except http.client.HTTPException as error:
            raise OSError(f"it answers what is no HTTP ({type(error).__name__})") from error

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Nothing is held."""
