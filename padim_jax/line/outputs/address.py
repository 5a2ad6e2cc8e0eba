"""Addresses of outputs as people type them: checked before anything is judged, and shown without their secrets."""

import re
import urllib.parse

_PATH, _QUERY = "/%:@!$&'()*+,;=~", "/%:@!$&'()*+,;=~?"  # stay as they are


def split_address(url: str, kind: str, example: str, schemes: tuple[str, ...]) -> urllib.parse.SplitResult:
    """The parts of an address, of one of these schemes, with a host and a port that can be.

    Args:
      url: as it was typed.
      kind: of output, for messages.
      example: a right one.
      schemes: that are right.

    Raises:
      ValueError: another scheme, no host, or no such port; the message has no user, password or query.
    """
    parts, is_right = None, False
    try:
        parts = urllib.parse.urlsplit(url)
        is_right = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        is_right &= not re.search(r"[\s\x00-\x20\x7f]", parts.netloc)
        ascii_host(parts.hostname or "")
    except ValueError:  # of the host or the port; its own message may show the password
        is_right = False
    if parts is None or not is_right:
        raise ValueError(f"watch: {kind} {without_secrets(url)!r} is no address such as {example}") from None
    return parts


def ascii_host(host: str) -> str:
    """A host's name as it is looked up.

    >>> ascii_host("prüfung.example")
    'xn--prfung-4ya.example'
    """
    return host if host.isascii() else host.encode("idna").decode()


def ascii_parts(parts: urllib.parse.SplitResult) -> tuple[str, str, str]:
    """Host with its port, path and query as HTTP sends them; what is not ASCII is quoted."""
    host = ascii_host(parts.hostname or "")
    place = (f"[{host}]" if ":" in host else host) + (f":{parts.port}" if parts.port else "")
    return place, urllib.parse.quote(parts.path, _PATH), urllib.parse.quote(parts.query, _QUERY)


def without_secrets(url: str) -> str:
    """An address, right or wrong, without user, password and query.

    >>> without_secrets("htp://ada:secret@host/path?token=1")
    'htp://host/path'
    """
    return re.sub(r"^(.*?//)?.*@", r"\1", re.sub(r"[?#].*", "", url, flags=re.DOTALL), flags=re.DOTALL)
