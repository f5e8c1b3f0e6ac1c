"""Exceptions of HTTP clients as ours: neither a client's types nor its words about secrets come out of here."""

import os
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tfjs_fetch.errors import RefusedError, StalledError, StatusError, TransportError, TruncatedError, UnreachableError


@contextmanager
def translated(
    errors: tuple[type[Exception], ...], url: str, received: Callable[[], int | None] = lambda: None
) -> Iterator[None]:
    """Turn the client's exceptions into ours; `received` tells how many bytes of a body are there, None before it."""
    try:
        yield
    except errors as error:
        # What the client says of bad headers quotes them: a token of ours, or a signed link of the server's.
        quotes = {"LocalProtocolError", "RemoteProtocolError"} & {kind.__name__ for kind in type(error).__mro__}
        raise translate(error, url, received()) from (None if quotes else error)


def translate(error: Exception, url: str, received: int | None = None) -> TransportError:
    """Return our error for one of an httpx client, told by its name: httpx and its successor share their names.

    `received` says how much of a body was there, None that the answer had not begun.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    reason = str(error) or type(error).__name__
    if "LocalProtocolError" in names:
        # The client's own words quote the header, and that may be the secret one.
        return RefusedError(url, "the request is not valid HTTP; is there a line break in a header?")
    if names & {"UnsupportedProtocol", "InvalidURL", "TooManyRedirects", "UnicodeError"}:
        return RefusedError(url, reason)
    if "HTTPStatusError" in names:
        response: Any = vars(error)["response"]  # a hook of the caller's client has raised it
        return StatusError(url, response.status_code)
    if names & {"ReadTimeout", "WriteTimeout"}:
        return StalledError(url, received or 0, _patience(error))
    if received is not None:
        return TruncatedError(url, received, None)
    if "RemoteProtocolError" in names and not reason.startswith("Server disconnected"):
        return UnreachableError(url, "its answer is not valid HTTP")
    return _unreachable(error, url)


def _patience(error: Any) -> float:
    """Return how many seconds a client waited for bytes before it raised this timeout; 0 if it does not say."""
    try:
        return float(error.request.extensions["timeout"]["read"] or 0.0)
    except (AttributeError, KeyError, RuntimeError):
        return 0.0


def _unreachable(error: Exception, url: str) -> UnreachableError:
    """Return the error for a connection that failed, with the innermost reason: the client's own says little."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(cause):
            why = getattr(cause, "verify_message", "") or str(cause)
            cure = "an authority of your own is named by SSL_CERT_FILE or ssl_context"
            return UnreachableError(url, f"its certificate cannot be verified ({why}); {cure}", final=True)
    reasons = [_os_reason(cause) for cause in causes if isinstance(cause, OSError) and cause.strerror]
    return UnreachableError(url, reasons[-1] if reasons else str(error) or type(error).__name__)


def _os_reason(error: OSError) -> str:
    """Return what the system says of it; event loops put words of their own around that.

    Resolvers count below 0, and TLS has numbers of its own.
    """
    number = 0 if isinstance(error, ssl.SSLError) else error.errno or 0
    return os.strerror(number) if number > 0 else str(error.strerror)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and what led to it, the first of several at a time."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause.__cause__ or cause.__context__


def error_types(client: object) -> tuple[type[Exception], ...]:
    """Return the roots of the exceptions that the library of `client` raises."""
    found: list[type[Exception]] = []
    packages = {kind.__module__.partition(".")[0] for kind in type(client).__mro__}
    for package in packages | {"httpx"}:
        names = vars(sys.modules[package]) if package in sys.modules else {}
        known = [names.get(name) for name in ("HTTPError", "InvalidURL", "StreamError")]
        found += [kind for kind in known if isinstance(kind, type) and issubclass(kind, Exception)]
    return tuple(found)
