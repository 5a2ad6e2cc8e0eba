"""Who may ask, and from where: tokens, the Host and Origin of a request, and how often one client may ask."""

import hmac
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

from padim_jax.line.service.uploads import Refusal

HEADER = "x-padim"  # that a page of another site can't send without asking first, which is never allowed
SAFE = ("GET", "HEAD", "OPTIONS")
_SHORTEST_TOKEN = 16  # characters
_BURST = 2.0  # seconds of its rate that a client may use at once
_MOST_CLIENTS = 10_000  # remembered

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what is bound to ``host``.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(path: Path) -> str:
    """The token in a file of one line.

    Raises:
      ValueError: no such file, or a token that is short or not one line of printable ASCII without spaces.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--token-file {path}: can't be read as a line of ASCII ({error})") from error
    if len(token) < _SHORTEST_TOKEN or not all("!" <= character <= "~" for character in token):
        raise ValueError(
            f"--token-file {path}: {len(token)} characters, wanted one line of at least {_SHORTEST_TOKEN} without "
            "spaces, such as python3 -c 'import secrets; print(secrets.token_urlsafe(32))' gives"
        )
    return token


class Gate:
    """Lets requests through, or refuses them in words.

    Args:
      token: that clients have to show; None for none.
      is_local: whether only this machine can ask.
      hosts: names, beside addresses and ``localhost``, that clients may know this service by.
    """

    def __init__(self, token: str | None, *, is_local: bool, hosts: tuple[str, ...] = ()) -> None:
        self._token, self._is_local, self._hosts = token, is_local, {host.lower() for host in hosts}

    @property
    def wants_token(self) -> bool:
        """Whether clients have to show one."""
        return self._token is not None

    def check_host(self, headers: Mapping[str, str]) -> None:
        """Refuse a request that was meant for another host, as one by a name that was bound anew to this address is.

        Raises:
          Refusal: another host, or none.
        """
        host = headers.get("host", "")
        name = host.rsplit(":", 1)[0].lower() if not host.endswith("]") else host.lower()
        if name in ("localhost", *self._hosts):
            return
        try:
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            address = None
        if address is None or (self._is_local and not address.is_loopback):
            wanted = "; name it by --host-name" if not self._is_local else ""
            raise Refusal(421, "host", f"this service is not known as {name[:100]!r}{wanted}")

    def check_origin(self, method: str, scheme: str, headers: Mapping[str, str]) -> None:
        """Refuse what a page of another site sends.

        Raises:
          Refusal: another origin than this service's own.
        """
        origin = headers.get("origin")
        own = f"{scheme}://{headers.get('host', '')}"
        if origin is not None and origin.lower() != own.lower():
            raise Refusal(403, "origin", f"a page of {origin[:100]!r} may not ask; only {own} may")
        site = headers.get("sec-fetch-site", "none")
        is_link = method in SAFE and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("none", "same-origin") and not is_link:
            raise Refusal(403, "origin", "a page of another site may not ask")

    def check_token(self, headers: Mapping[str, str]) -> None:
        """Refuse who does not show the token; the comparison takes as long whatever is shown.

        Raises:
          Refusal: another token, or none.
        """
        if self._token is None:
            return
        kind, _, shown = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(shown.strip().encode(), self._token.encode()):
            said = "the token is missing" if not kind else "the token is wrong"
            text = f"{said}; send the header Authorization: Bearer TOKEN"
            raise Refusal(401, "token", text, {"www-authenticate": 'Bearer realm="padim"'})

    def check_change(self, headers: Mapping[str, str]) -> None:
        """Refuse a change that another site's form or script could have sent.

        Raises:
          Refusal: no JSON, or without the header of its own.
        """
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(415, "content type", f"content type {kind[:80]!r}, wanted application/json")
        self.check_own(headers)

    def check_own(self, headers: Mapping[str, str]) -> None:
        """Refuse what has not the header of its own, which another site's form or script can't send.

        Raises:
          Refusal: it is missing.
        """
        if headers.get(HEADER) != "1":
            raise Refusal(403, "header", "the header X-Padim: 1 is missing, without which nothing is changed")


class RateLimit:
    """So many requests a second of each client, over some seconds.

    Args:
      rate: requests a second; None for any.
      clock: seconds.
    """

    def __init__(self, rate: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._clients = OrderedDict[str, tuple[float, float]]()  # what is left of each, and when that was

    def check(self, client: str) -> None:
        """Count a request.

        Raises:
          Refusal: it is one too many.
        """
        if self._rate is None:
            return
        now, most = self._clock(), max(1.0, self._rate * _BURST)
        left, at = self._clients.pop(client, (most, now))
        left = min(most, left + (now - at) * self._rate)
        self._clients[client] = (left - 1, now) if left >= 1 else (left, now)
        if len(self._clients) > _MOST_CLIENTS:
            self._clients.popitem(last=False)
        if left < 1:
            wait = {"retry-after": str(max(1, round((1 - left) / self._rate)))}
            raise Refusal(429, "rate", f"more than {self._rate:g} requests a second; try again later", wait)
