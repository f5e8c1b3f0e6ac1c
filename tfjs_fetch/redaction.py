"""What may be shown of a URL: signed links and tokens live in its user part and its query."""


def redact(url: str) -> str:
    """Return `url` without user, password, fragment and query; `?…` marks that there was a query.

    Paths and anything else that is no URL come back unchanged.
    """
    if "://" not in url:
        return url
    # By hand, for urlsplit raises on what is no proper URL, and an error that shows such a one must not show secrets.
    address, _, query = url.partition("#")[0].partition("?")
    scheme, mark, rest = address.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{mark}{authority.rpartition('@')[2]}{slash}{path}{'?…' if query else ''}"


def redact_path(path: str) -> str:
    """Return the path of a shard in the same way; without a scheme it is still half a URL, and may have a query."""
    if "://" in path:
        return redact(path)
    before, mark, _ = path.partition("?")
    return f"{before}?…" if mark else path
