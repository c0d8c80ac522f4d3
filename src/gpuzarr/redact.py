"""Removes secrets from text: one function, used by every repr, error, log line and report. And from causes of errors."""

from __future__ import annotations

import re

__all__ = ["public_cause", "redact"]

_HIDDEN = "***"

# Runs of characters are matched possessively and from their start only, so that time stays linear in hostile text.
_URL = re.compile(r"(?<![\w+.\-])[A-Za-z][\w+.\-]*+://[^\s'\"<>]*+")
_PLACES = ("abfs", "abfss", "wasb", "wasbs")  # container@account names a place

_ASSIGNED = re.compile(r"(?<![\w\-])(?P<name>[\w\-]++)(?P<between>['\"]?\s*+(?:=|%3[Dd]|:(?!//))\s*+)")
_SECRET_NAME = re.compile(
    r"""\Ax-(?:amz|goog|ms)-
    |(?:secret|passw(?:or)?d|passphrase|token|signature|credential|apikey|accesskey|accountkey|privatekey|googleaccess
        |(?:api|access|account|private|encryption|shared|storage|sas|subscription|service_account)[_\-]key
        |key[_\-]base64|connection[_\-]?string)(?:s|id)?(?:[_\-]|\Z)
    |(?:\A|[_\-])(?:sas|sig|pwd|auth|authorization|cookie|bearer|jwt)(?:[_\-]|\Z)""",
    re.IGNORECASE | re.VERBOSE,
)
_HEADER_NAME = re.compile(r"(?:proxy-)?authorization|(?:set-)?cookie", re.IGNORECASE)
_VALUE = re.compile(
    r"""(?:(?:Bearer|Basic|Digest|Negotiate|Token)\s++)?
    (?:[bru]{0,2}'(?:[^'\\]|\\.)*+(?:'|\Z)|[bru]{0,2}"(?:[^"\\]|\\.)*+(?:"|\Z)
        |(?!(?:None|null|True|False)\b)[^\s'",=][^\s'",]*+)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_LINE = re.compile(r"[^\s'\"{}][^\n'\"{}]*+")

_SHAPES = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS access keys
    r"|\bya29\.[\w\-]{10,}+"  # Google access tokens
    r"|\beyJ[\w\-]{8,}+\.eyJ[\w\-]{8,}+\.[\w\-]++"  # JSON web tokens
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}+"
)
_PEM = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[A-Za-z0-9+/=\s\\:,\-]*+")


def redact(text: str) -> str:
    """Text without user information, query strings and values of secret-looking names.

    Query strings are dropped whole: a signed URL has no harmless part worth keeping. Values are hidden by the name they
    are given to (``secret_access_key=…``, ``'token': '…'``, ``Authorization: …``), and a few kinds of keys by their
    shape. Redacting twice changes nothing more.

    Parameters
    ----------
    text
        Any text: a URL, an error message of another library, a repr.
    """
    if "://" in text:
        text = _URL.sub(_hide_in_url, text)
    if "=" in text or ":" in text or "%3" in text:
        text = _hide_values(text)
    if "-----BEGIN" in text:
        text = _PEM.sub(_HIDDEN, text)
    return _SHAPES.sub(_HIDDEN, text)


def _hide_in_url(found: re.Match[str]) -> str:
    url, mark, query = found[0].partition("?")
    first, *rest = url.split("://")
    parts = [first]
    scheme = first
    for part in rest:
        authority, slash, path = part.partition("/")
        user, at, host = authority.rpartition("@")
        if at and not (scheme.lower() in _PLACES and ":" not in user):
            authority = f"{_HIDDEN}@{host}"
        parts.append(authority + slash + path)
        scheme = re.split(r"[^\w+.\-]", part[-20:])[-1]
    if not mark or not query.strip(").,;]}"):
        return "://".join(parts) + mark + query
    end = query[len(query.rstrip(").,;]}")) :]
    return f"{'://'.join(parts)}?{_HIDDEN}{end}"


def _hide_values(text: str) -> str:
    kept: list[str] = []
    done = 0
    for found in _ASSIGNED.finditer(text):
        if found.start() < done or _SECRET_NAME.search(found["name"]) is None:
            continue
        between = found["between"]
        if _HEADER_NAME.fullmatch(found["name"]) and between.strip() == ":":
            value = _LINE.match(text, found.end())
        elif "credential" in found["name"].lower() and re.fullmatch(r":\s+", between):
            continue  # prose: "check the credentials: …"
        else:
            value = None
        value = value or _VALUE.match(text, found.end())
        if value is None:
            continue
        end = value.start() + len(value[0].rstrip(")]}>;"))
        if end > value.start():
            kept += (text[done : found.end()], _HIDDEN)
            done = end
    kept.append(text[done:])
    return "".join(kept)


def public_cause(error: BaseException | None) -> BaseException | None:
    """The cause that an error of ours may be raised from: None if one in its chain holds a secret, which a traceback shows."""
    seen: set[int] = set()
    link = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        texts = (str(link), repr(link))
        if any(redact(text) != text for text in texts):
            return None
        link = link.__cause__ if link.__suppress_context__ else link.__context__
    return error
