"""Prints the listener's notices, so that many alike take few lines."""

import threading
import time

_SECONDS = 60.0


class Notices:
    """Prints the first notice of a kind at once, and the number of later ones once a minute.

    Thread-safe. A notice holds nothing that was sent, but for the title of a refused caller.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds, self._mutex = seconds, threading.Lock()
        self._kinds: dict[str, tuple[float, int]] = {}  # when it was printed, how many since

    def add(self, kind: str, detail: str = "") -> None:
        """Prints or counts a notice: its kind, of which there are few, and this one's detail."""
        now = time.monotonic()
        with self._mutex:
            printed, more = self._kinds.get(kind, (now, -1))
            self._kinds[kind] = (printed, more + 1)
        if more < 0:
            print(f"{kind} ({detail})" if detail else kind, flush=True)

    def flush(self, everything: bool = False) -> None:
        """Prints how many notices of each kind came since it was printed, a minute ago or more."""
        now = time.monotonic()
        with self._mutex:
            due = {
                kind: more
                for kind, (printed, more) in self._kinds.items()
                if everything or now - printed >= self._seconds
            }
            for kind, more in due.items():
                del self._kinds[kind]
                if more:
                    self._kinds[kind] = (now, 0)
        for kind, more in due.items():
            if more:
                print(f"{kind} ({more} more)", flush=True)
