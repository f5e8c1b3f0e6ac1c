"""What may be shown of a URL: signed links and tokens live in its user part and its query."""

from urllib.parse import urlsplit, urlunsplit


def redact(url: str) -> str:
    """Return `url` without user, password, fragment and query; `?…` marks that there was a query.

    Paths and anything else that is no URL come back unchanged.
    """
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.split("?", 1)[0].split("#", 1)[0].split("@")[-1]
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit((parts.scheme, host, parts.path, "…" if parts.query else "", ""))


def redact_path(path: str) -> str:
    """Return the path of a shard in the same way; without a scheme it is still half a URL, and may have a query."""
    if "://" in path:
        return redact(path)
    before, mark, _ = path.partition("?")
    return f"{before}?…" if mark else path
