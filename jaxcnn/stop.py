"""Stopping on request: SIGTERM and Ctrl-C set a flag that every long loop polls."""

import os
import signal
import threading
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_exits_at_once = False


class Stopped(Exception):
    """A long loop ended early because a signal asked for it. Exit code 128 + the signal's number."""

    def __init__(self, signum: int, message: str = "") -> None:
        """Note the signal and what to tell the user."""
        super().__init__(message or f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.exit_code = 128 + signum


class StopFlag:
    """A context in which the first SIGTERM or Ctrl-C is only noted; a Ctrl-C after that interrupts at once.

    One within another starts with what the outer one has noted. Outside the main thread, where Python installs no
    handlers, the flag is never set.
    """

    def __init__(self) -> None:
        """Start with nothing requested."""
        self.signum: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopFlag":
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
            outer = getattr(self._previous[signal.SIGTERM], "__self__", None)
            if isinstance(outer, StopFlag) and self.signum is None:
                self.signum = outer.signum
        return self

    def __exit__(self, *exc: object) -> None:
        """Restore the handlers that were there, except one that was not Python's, which cannot be."""
        for number, handler in self._previous.items():
            if handler is not None:
                signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = signum
        elif signum == signal.SIGINT and not _exits_at_once:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise Stopped if a stop was requested."""
        if self.signum is not None:
            raise Stopped(self.signum)


def exit_on_second_interrupt(message: str) -> None:
    """From now on, let a Ctrl-C after another signal print `message` and end this process with 130, wherever it is.

    Python runs handlers only between its own instructions, not while XLA compiles or a device computes. So this is
    done by a thread, which the operating system's handler wakes. For programs of their own, not for notebooks.
    """
    global _exits_at_once
    _exits_at_once = True
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        seen = 0
        while True:
            (signum,) = os.read(reader, 1)
            if signum == signal.SIGINT and seen:
                show_cursor = "\x1b[?25h\n" if os.isatty(2) else ""  # a progress bar hides it
                os.write(2, (show_cursor + message + "\n").encode())
                os._exit(128 + signal.SIGINT)
            seen += signum in _SIGNALS

    threading.Thread(target=watch, daemon=True, name="second-interrupt").start()
