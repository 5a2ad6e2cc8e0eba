"""Addresses of outputs as people type them: checked before anything is judged, and shown without their secrets."""

import re
import urllib.parse

# with an @ behind a sign that ends a host: what is before it may be a password that such a sign is in
_AMBIGUOUS = re.compile(r"[^/?#]*//(?:[^/?#]*[?#]|[^/?#]*[:@][^/?#]*/|[^/?#]*/[^@]*[?#]).*@", re.DOTALL)
_PATH, _QUERY = "/%:@!$&'()*+,;=~", "/%:@!$&'()*+,;=~?"  # stay as they are


def split_address(url: str, kind: str, example: str, schemes: tuple[str, ...]) -> urllib.parse.SplitResult:
    """The parts of an address, of one of these schemes, with a host and a port that can be.

    Args:
      url: as it was typed.
      kind: of output, for messages.
      example: a right one.
      schemes: that are right.

    Raises:
      ValueError: another scheme, no host, no such port, or an @ by which nobody can tell where a password ends; the
        message has no user, password or query.
    """
    if _AMBIGUOUS.match(url):
        shown = without_secrets(url)
        signs = "in a password write %2F for /, %3F for ?, %23 for # and %40 for @, and behind the host %40 for @"
        raise ValueError(f"watch: {kind} {shown!r} has an @ behind a /, ? or #; {signs}")
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
    >>> without_secrets("rtsp://ada:se#cret@host/path")
    'rtsp://…'
    """
    if re.search(r"[?#].*@", url, re.DOTALL):  # of a password or of a query, nobody can tell
        return re.sub(r"^([a-zA-Z][a-zA-Z0-9+.-]*://)?.*", r"\1…", url, flags=re.DOTALL)
    return re.sub(r"^(.*?//)?.*@", r"\1", re.sub(r"[?#].*", "", url, flags=re.DOTALL), flags=re.DOTALL)
