"""Addresses: what a source means, where its shards are, and whose origin that is.

Shards are resolved as TF.js does where that is sane (tfjs-core io/http.ts), and as a browser would where TF.js glues
strings: against the directory of the requested URL, never of the one it redirected to; the query of the model goes
along unless the shard has its own; the fragment never does. Percent-encoding stays as it was written.
"""

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit
from urllib.request import url2pathname

from tfjs_fetch.errors import ManifestError, RefusedError
from tfjs_fetch.redaction import redact_path

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|//")
# A URL with a slash too few, or with backslashes.
_NEARLY = re.compile(r"(?i)https?:(?!//[^/\\])")
# Behind a bracketed address nothing but a port: clients differ in what they make of other things.
_ODD_HOST = re.compile(r"\](?!:\d*$|$)")
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Everything that may stand in a path or query as it is, and "%": what is encoded already stays so.
_SAFE = "/%:@!$&'()*+,;=~?#[]-._"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")

_ARCHIVES = (".zip", ".tar.gz", ".tgz")
_HUB_HOSTS = ("tfhub.dev", "www.tfhub.dev")
_HUB_QUERY = "tfjs-format=file"


@dataclass(frozen=True, slots=True)
class Remote:
    """A model on a server: the URL of its JSON or of an archive with one."""

    url: str

    @property
    def is_archive(self) -> bool:
        """Whether the URL names a .zip or .tar.gz."""
        return urlsplit(self.url).path.lower().endswith(_ARCHIVES)


@dataclass(frozen=True, slots=True)
class Local:
    """A model on this machine: a JSON, a directory with one, or an archive with one."""

    path: Path


def locate(source: str | os.PathLike[str]) -> Remote | Local:
    """Return where the model `source` is.

    Raises RefusedError for schemes other than http, https and file, for a URL that is none and for an empty string;
    ManifestError for a `.pb` file.
    """
    if source == "":  # which would be the current directory
        raise RefusedError(source, "the source is empty")
    if _NEARLY.match(str(source)):  # a Path makes one slash of two
        raise RefusedError(
            f"{str(source).partition(':')[0]}:…", "a URL is a string that begins with http:// or https://"
        )
    if not isinstance(source, str) or not _SCHEME.match(source):
        return _checked(Local(Path(source)))
    try:
        parts = urlsplit(source)
        host, _ = parts.hostname, parts.port
        host = None if _ODD_HOST.search(parts.netloc) else host
    except ValueError:
        # Where the host ends cannot be told then, nor what of this is a password.
        raise RefusedError(f"{source.partition('://')[0]}://…", "its host or port is not one") from None
    match parts.scheme:
        case "http" | "https" if host:
            return _checked(Remote(_document_url(source)))
        case "file" if host in (None, "localhost"):
            return _checked(Local(Path(url2pathname(parts.path))))
        case _:
            raise RefusedError(source, "only http, https and file URLs with a proper host are understood")


@lru_cache(maxsize=8192)
def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an http or https URL, the port spelled out."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def shard_url(model_url: str, path: str, prefix: str | None = None, *, allow_absolute: bool = False) -> str:
    """Return the URL of the shard `path` of the model at `model_url`.

    `prefix` stands for the model's own directory if it is given and not empty (TF.js's weightPathPrefix); it may be
    relative to the model and may have a query of its own.

    Raises RefusedError if `path` names a host of its own and that is not allowed, or if `prefix` is no usable URL;
    ManifestError if there are control characters in `path`.
    """
    reference = _reference(model_url, path)
    if _ABSOLUTE.match(reference):
        if not allow_absolute:
            reason = (
                f"the shard {redact_path(path)!r} names a host of its own; Policy(absolute_shards=True) allows that"
            )
            raise RefusedError(model_url, reason)
        return joined(model_url, reference)
    base = urlsplit(joined(model_url, _as_directory(prefix)) if prefix else model_url)
    before, _, query = reference.partition("#")[0].partition("?")
    query = query or base.query or urlsplit(model_url).query
    return urlunsplit((base.scheme, base.netloc, _merged(base.path, before), query, ""))


def joined(base_url: str, reference: str) -> str:
    """Return what `reference`, a redirect's location or a caller's address of a shard, means seen from `base_url`.

    Raises RefusedError if that is no http or https URL.
    """
    try:
        parts = _resolved(urlsplit(base_url), urlsplit(reference))
        named = bool(parts.hostname) and not _ODD_HOST.search(parts.netloc)
        usable = parts.scheme in ("http", "https") and named and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise RefusedError(base_url, "it leads to something that is no http or https URL")
    return urlunsplit(parts._replace(fragment=""))


def _resolved(base: SplitResult, reference: SplitResult) -> SplitResult:
    """Return what `reference` means seen from `base` (RFC 3986, 5.2).

    urljoin drops empty segments, which mean something in `https://proxy/https://host/model.json` and in buckets.
    """
    if reference.scheme:
        return reference
    if reference.netloc:
        return reference._replace(scheme=base.scheme)
    if not reference.path:
        return base._replace(query=reference.query or base.query)
    return base._replace(path=_merged(base.path, reference.path), query=reference.query)


def _merged(base_path: str, path: str) -> str:
    """Return `path` seen from `base_path`, without dot segments."""
    whole = path if path.startswith("/") else f"{base_path.rpartition('/')[0]}/{path}"
    segments = whole.split("/")[1:]
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join([*kept, ""] if segments[-1] in (".", "..") else kept)


def _checked(place: Remote | Local) -> Remote | Local:
    name = urlsplit(place.url).path if isinstance(place, Remote) else place.path.name
    if name.lower().endswith(".pb"):
        shown = place.url if isinstance(place, Remote) else str(place.path)
        problem = (
            "a .pb file is a TensorFlow graph without the index of its weights. If weights_manifest.json lies beside "
            "it, fetch that; else convert the model to TensorFlow.js (model.json) with tensorflowjs_converter"
        )
        raise ManifestError(shown, "", problem)
    return place


def _document_url(source: str) -> str:
    """Return the URL of the document: the fragment dropped, model.json added to a directory or tfhub.dev handle."""
    parts = urlsplit(source)
    path, query = _encoded(parts.path) or "/", _encoded(parts.query)
    if parts.hostname in _HUB_HOSTS and not path.lower().endswith(_ARCHIVES):
        path = path if path.lower().endswith(".json") else path.rstrip("/") + "/"
        query = query if _HUB_QUERY in query.split("&") else "&".join(filter(None, (query, _HUB_QUERY)))
    if path.endswith("/"):
        path += "model.json"
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def _reference(model_url: str, path: str) -> str:
    """Return `path` as a URL reference; browsers read a backslash as a slash, so Windows-made manifests work there."""
    if _CONTROL.search(path):
        raise ManifestError(model_url, "paths", f"the shard {redact_path(path)!r} has control characters in its name")
    return _encoded(path.strip(" ").replace("\\", "/"))


def _encoded(text: str) -> str:
    """Return `text` with what must not stand in a path or query encoded; halves of characters as browsers do."""
    return quote(_LONE_PERCENT.sub("%25", _SURROGATE.sub("\ufffd", text)), safe=_SAFE)


def _as_directory(prefix: str) -> str:
    """Return `prefix` with a slash at the end of its path, in front of its query if it has one."""
    path, mark, query = prefix.partition("#")[0].partition("?")
    return (path if path.endswith("/") else f"{path}/") + mark + query
