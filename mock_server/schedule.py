"""Which faults befall which request."""

from dataclasses import dataclass

from mock_server.faults import Fault


@dataclass(slots=True)
class _Turn:
    """Faults that befall the next `left` requests together; all that ever come if None."""

    faults: tuple[Fault, ...]
    left: int | None


class Schedule:
    """For each path, and for all paths together, a queue of turns at misbehaving."""

    def __init__(self) -> None:
        self._queues: dict[str | None, list[_Turn]] = {}

    def add(self, path: str | None, faults: tuple[Fault, ...], times: int | None) -> None:
        """Let `faults` befall the next requests to `path` (None: to any) after those already planned.

        Raises ValueError if an earlier turn there never ends, so that this one would never come.
        """
        queue = self._queues.setdefault(path, [])
        if queue and queue[-1].left is None:
            raise ValueError(f"{path or 'every path'} already misbehaves for ever; call behave() before this")
        if times != 0:
            queue.append(_Turn(faults, times))

    def clear(self, path: str | None) -> None:
        """Forget the turns of `path`; all turns if None."""
        if path is None:
            self._queues.clear()
        self._queues.pop(path, None)

    def take(self, path: str) -> tuple[Fault, ...]:
        """The faults for the request to `path` that has just come; each call uses up a turn."""
        return self._next(None) + self._next(path)

    def _next(self, path: str | None) -> tuple[Fault, ...]:
        queue = self._queues.get(path)
        if not queue:
            return ()
        turn = queue[0]
        if turn.left is not None:
            turn.left -= 1
            if not turn.left:
                queue.pop(0)
        return turn.faults
