"""Stopping on request: SIGTERM and Ctrl-C set a flag that every long loop polls."""

import signal
import threading
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """A long loop ended early because a signal asked for it. Exit code 128 + the signal's number."""

    def __init__(self, signum: int, message: str = "") -> None:
        """Note the signal and what to tell the user."""
        super().__init__(message or f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.exit_code = 128 + signum


class StopFlag:
    """A context in which the first SIGTERM or Ctrl-C is only noted; a second Ctrl-C interrupts at once.

    Outside the main thread, where Python installs no handlers, the flag is never set.
    """

    def __init__(self) -> None:
        """Start with nothing requested."""
        self.signum: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopFlag":
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *exc: object) -> None:
        """Restore the handlers that were there."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum

    def check(self, message: str = "") -> None:
        """Raise Stopped if a stop was requested."""
        if self.signum is not None:
            raise Stopped(self.signum, message)
