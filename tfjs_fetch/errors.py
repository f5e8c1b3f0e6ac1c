"""Everything that can go wrong, as one tree.

    TfjsFetchError
    ├── TransportError          a body did not arrive
    │   ├── UnreachableError        no answer at all
    │   ├── StatusError             an answer that is not 200
    │   ├── WrongContentError       something else than the file: an HTML page, a Git LFS pointer
    │   ├── TruncatedError          the body ended early
    │   ├── StalledError            the body stopped moving
    │   └── RefusedError            policy or limits forbid it
    ├── ManifestError           model.json is not one
    ├── DecodeError             the bytes are not what model.json promises
    │   ├── MissingBytesError
    │   ├── ExtraBytesError
    │   └── ShardOrderError
    ├── IntegrityError          right size, wrong content
    ├── ModelChangedError       the files were replaced while they were loaded, again and again
    ├── CacheError              the cache on disk cannot be used
    │   └── NotCachedError          it was to do without the network, and lacks something
    ├── EncodeError             these values cannot be stored in the format
    ├── UnknownWeightError      no weight of that name (also a KeyError)
    └── MissingExtraError       an optional dependency is not installed (also an ImportError)

Each error keeps its facts as fields and makes its sentence from them. URLs and the paths of shards are kept redacted.
All of them pickle.
"""

from collections.abc import Iterable
from difflib import get_close_matches

from tfjs_fetch.redaction import redact, redact_path

# difflib compares with every name; beyond this many the suggestion is not worth the wait.
_NEAREST_CANDIDATES = 4_000


class TfjsFetchError(Exception):
    """The root of all errors of this package."""


class TransportError(TfjsFetchError):
    """A body did not arrive. `url` is the one that was asked for, redacted."""

    url: str


class UnreachableError(TransportError):
    """No answer: the name did not resolve, the connection was refused, failed or closed before an answer.

    `final` is true when asking again cannot help (a certificate that does not fit, an impossible URL).
    """

    def __init__(self, url: str, reason: str, final: bool = False) -> None:
        url = redact(url)
        super().__init__(url, reason, final)
        self.url, self.reason, self.final = url, reason, final

    def __str__(self) -> str:
        return f"{self.url} could not be reached: {self.reason}"


class StatusError(TransportError):
    """The server answered with something else than 200.

    `retry_after` is in seconds, None if the server did not say. `content` names what the body looks like.
    """

    def __init__(self, url: str, status: int, content: str | None = None, retry_after: float | None = None) -> None:
        url = redact(url)
        super().__init__(url, status, content, retry_after)
        self.url, self.status, self.content, self.retry_after = url, status, content, retry_after

    def __str__(self) -> str:
        came = f" with {self.content}" if self.content else ""
        asked = f", and asks to wait {self.retry_after:,.0f} seconds" if self.retry_after else ""
        return f"{self.url} answered {self.status}{came}{asked}{_status_hint(self.status)}"


class WrongContentError(TransportError):
    """A 200 answer that holds something else than the file asked for; `content` says what it looks like."""

    def __init__(self, url: str, content: str, received: int | None = None, expected: int | None = None) -> None:
        url = redact(url)
        super().__init__(url, content, received, expected)
        self.url, self.content, self.received, self.expected = url, content, received, expected

    def __str__(self) -> str:
        sizes = "" if self.expected is None else f" ({_count(self.received)} bytes where {self.expected:,} belong)"
        return f"{self.url} answered with {self.content}{sizes} instead of the file; is it published at that address?"


class TruncatedError(TransportError):
    """The body of a download ended before its announced length, or in the middle of its encoding."""

    def __init__(self, url: str, received: int, expected: int | None) -> None:
        url = redact(url)
        super().__init__(url, received, expected)
        self.url, self.received, self.expected = url, received, expected

    def __str__(self) -> str:
        of = "" if self.expected is None else f" of {self.expected:,}"
        return f"{self.url} ended after {self.received:,}{of} bytes"


class StalledError(TransportError):
    """Too few bytes arrived in the time that `Retry` allows. `received` counts the bytes of this attempt."""

    def __init__(self, url: str, received: int, seconds: float) -> None:
        url = redact(url)
        super().__init__(url, received, seconds)
        self.url, self.received, self.seconds = url, received, seconds

    def __str__(self) -> str:
        return f"{self.url} stalled after {self.received:,} bytes: next to nothing came for {self.seconds:g} seconds"


class RefusedError(TransportError):
    """A policy or a limit forbids to go on; `reason` says which one, with its numbers."""

    def __init__(self, url: str, reason: str) -> None:
        url = redact(url)
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return f"{self.url} is refused: {self.reason}"


class ManifestError(TfjsFetchError):
    """The document is not a model.json that can be used; `place` is the path inside the JSON."""

    def __init__(self, source: str, place: str, problem: str) -> None:
        source = redact(source)
        super().__init__(source, place, problem)
        self.source, self.place, self.problem = source, place, problem

    def __str__(self) -> str:
        return f"{self.source}: {self.place}: {self.problem}" if self.place else f"{self.source}: {self.problem}"


class DecodeError(TfjsFetchError):
    """The bytes of the shards are not what model.json promises."""


class MissingBytesError(DecodeError):
    """A group has fewer bytes than its weights need. `weight` is the first to lack some, `shard` the likely cause."""

    def __init__(self, group: int, weight: str, shard: str, expected: int, got: int) -> None:
        shard = redact_path(shard)
        super().__init__(group, weight, shard, expected, got)
        self.group, self.weight, self.shard, self.expected, self.got = group, weight, shard, expected, got

    def __str__(self) -> str:
        return (
            f"weight group {self.group} has {self.got:,} of {self.expected:,} bytes: weight {self.weight!r} is cut "
            f"short, probably by shard {self.shard!r}; do the shards belong to this model.json, were they uploaded "
            "completely?"
        )


class ExtraBytesError(DecodeError):
    """A group has more bytes than its weights need; `got` is a lower bound when the server did not say the length."""

    def __init__(self, group: int, shard: str, expected: int, got: int) -> None:
        shard = redact_path(shard)
        super().__init__(group, shard, expected, got)
        self.group, self.shard, self.expected, self.got = group, shard, expected, got

    def __str__(self) -> str:
        return (
            f"weight group {self.group} has {self.got:,} bytes where its weights need {self.expected:,} "
            f"(shard {self.shard!r}); do the shards belong to this model.json? "
            "Policy(extra_bytes='ignore') decodes each group on its own anyway"
        )


class ShardOrderError(DecodeError):
    """Shards named `…KofN…` are listed out of order, repeated, or not all there."""

    def __init__(self, group: int, paths: tuple[str, ...], problem: str) -> None:
        paths = tuple(map(redact_path, paths))
        super().__init__(group, paths, problem)
        self.group, self.paths, self.problem = group, paths, problem

    def __str__(self) -> str:
        return (
            f"weight group {self.group}: {self.problem}; its bytes would be put together wrongly. "
            "Policy(shard_order='ignore') takes the order of model.json as it is"
        )


class IntegrityError(TfjsFetchError):
    """The content is not the expected one, though its size may be right. Digests are sha256 in hex."""

    def __init__(self, source: str, expected: str, got: str) -> None:
        source = redact(source)
        super().__init__(source, expected, got)
        self.source, self.expected, self.got = source, expected, got

    def __str__(self) -> str:
        return f"{self.source} has the digest {self.got}, expected was {self.expected}"


class ModelChangedError(TfjsFetchError):
    """The files were replaced by others every time they were loaded: what came would be a mixture of versions."""

    def __init__(self, source: str, attempts: int) -> None:
        source = redact(source)
        super().__init__(source, attempts)
        self.source, self.attempts = source, attempts

    def __str__(self) -> str:
        return f"{self.source} changed while it was loaded, {self.attempts} times; is it just being published?"


class CacheError(TfjsFetchError):
    """The cache on disk cannot be used; `place` is the file or directory, and `needed` the bytes there was no room for.

    What the cache held before is untouched.
    """

    def __init__(self, place: str, problem: str, needed: int | None = None) -> None:
        super().__init__(place, problem, needed)
        self.place, self.problem, self.needed = place, problem, needed

    def __str__(self) -> str:
        room = "" if self.needed is None else f" ({self.needed:,} bytes are needed)"
        return f"the cache {self.place} {self.problem}{room}; another directory can be given, or cache=None"


class NotCachedError(CacheError):
    """Nothing may be asked of the network, and the cache lacks `missing`."""

    def __init__(self, source: str, missing: tuple[str, ...]) -> None:
        source, missing = redact(source), tuple(map(redact, missing))
        TfjsFetchError.__init__(self, source, missing)
        self.source, self.missing = source, missing

    def __str__(self) -> str:
        lacks = ", ".join(self.missing[:5]) + ("…" if len(self.missing) > 5 else "")
        return f"{self.source} is not in the cache, and nothing was asked of the network; it lacks {lacks}"


class EncodeError(TfjsFetchError):
    """The values of an array cannot be stored in the format without changing them."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name, self.problem = name, problem

    def __str__(self) -> str:
        return f"weight {self.name!r} {self.problem}"


class UnknownWeightError(TfjsFetchError, KeyError):
    """No weight has this name, or none matches this pattern. `nearest` lists the most similar names."""

    def __init__(self, name: str, nearest: tuple[str, ...] = ()) -> None:
        super().__init__(name, nearest)
        self.name, self.nearest = name, nearest

    @classmethod
    def among(cls, name: str, names: Iterable[str]) -> "UnknownWeightError":
        """Return the error with the names out of `names` that come nearest to `name`."""
        candidates = list(names)[:_NEAREST_CANDIDATES]
        return cls(name, tuple(get_close_matches(name, candidates, n=3, cutoff=0.5)))

    def __str__(self) -> str:
        nearest = f"; the nearest: {', '.join(map(repr, self.nearest))}" if self.nearest else ""
        return f"there is no weight {self.name!r}{nearest}"


class MissingExtraError(TfjsFetchError, ImportError):
    """A part of the package needs an optional dependency that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(feature, extra)
        self.feature, self.extra = feature, extra

    def __str__(self) -> str:
        return f"{self.feature} needs more packages; install them with: pip install 'tfjs-fetch[{self.extra}]'"


def _count(number: int | None) -> str:
    return "an unknown number of" if number is None else f"{number:,}"


def _status_hint(status: int) -> str:
    match status:
        case 401 | 403:
            return "; does it need headers or a newer signed link, or has the host closed it?"
        case 404 | 410:
            return "; is the address right, and are the shards beside model.json?"
        case 429:
            return "; the server asks for fewer requests"
        case _:
            return ""
