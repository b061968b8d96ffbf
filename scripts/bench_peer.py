"""The other side of the benchmarks: `torch_peer.py`, started under an interpreter that has torch."""

import contextlib
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bench_tools import Timer

from jaxcnn.errors import RunError, UsageError


class PeerError(RunError):
    """The peer could not do one command, and goes on."""


class Peer:
    """`torch_peer.py` under another interpreter."""

    def __init__(self, python: Path, platform: str, *, allocator: bool = True) -> None:
        """Start it.

        Args:
          python: the interpreter.
          platform: of JAX's devices; torch uses the like.
          allocator: let malloc keep freed memory there, as `jaxcnn.backend.keep_freed_memory` does here.

        Raises:
          UsageError: there is no such interpreter, it has no torch, or torch cannot use such a device.
        """
        self._name = f"--torch-python {python}"
        device = {"cpu": "cpu", "gpu": "cuda"}.get(platform)
        if device is None:
            raise UsageError(f"{self._name}: torch is compared with on cpu and gpu, this is {platform}: leave it out")
        script = Path(__file__).with_name("torch_peer.py")
        command = [str(python), str(script), "--device", device, *([] if allocator else ["--no-allocator"])]
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  closed in `close`
        try:
            # In a session of its own: Ctrl-C is for us to handle.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                start_new_session=True,
            )
        except OSError as error:
            self._said.close()
            raise UsageError(f"{self._name}: {error.strerror}: expected a Python interpreter that has torch") from None
        try:
            self.about = self.ask("hello")
        except RunError as error:
            self.close()
            raise UsageError(f"{self._name}: {error}: expected a Python interpreter that has torch") from None

    def ask(self, do: str, **command: Any) -> dict[str, Any]:
        """Return the answer to a command.

        Raises:
          PeerError: it could not be done.
          RunError: the peer has ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # It may have said why.
            self._process.stdin.write(json.dumps({"do": do, **command}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        try:
            answer = json.loads(line)
        except ValueError:
            raise RunError(f"the peer {'said ' + repr(line[:80]) if line else 'ended'}{self._last_words()}") from None
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = self._said.read().split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f" ({last[:200]})" if last else ""

    def timer(self, number: int) -> Timer:
        """Return the timer of the workload called `number`."""
        return lambda calls: self.ask("time", id=number, calls=calls)["seconds"]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._said.close()
