"""The other side of the benchmarks: scripts started under interpreters that have torch or TensorFlow."""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_tools import Timer

from jaxcnn.errors import RunError, UsageError


class PeerError(RunError):
    """The peer could not do one command, and goes on."""


class Process:
    """A script under another interpreter, which answers commands."""

    def __init__(self, python: Path, script: str, option: str, needs: str, arguments: Sequence[str] = ()) -> None:
        """Start it.

        Args:
          python: the interpreter.
          script: a file beside this one, which calls `peer_protocol.serve`.
          option: the command line's name for `python`.
          needs: the packages that it must have, as pip knows them.
          arguments: of the script.

        Raises:
          UsageError: there is no such interpreter, or it says that it will not do.
        """
        name, wanted = f"{option} {python}", f"expected a Python interpreter that has {needs}"
        command = [str(python), str(Path(__file__).with_name(script)), *arguments]
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
            raise UsageError(f"{name}: {error.strerror}: {wanted}") from None
        try:
            self.about = self.ask("hello")
        except RunError as error:
            self.close()
            raise UsageError(f"{name}: {error}: {wanted} ({python} -m pip install {needs})") from None

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


class Peer(Process):
    """`torch_peer.py` under an interpreter that has torch."""

    def __init__(self, python: Path, platform: str, *, allocator: bool = True) -> None:
        """Start it.

        Args:
          python: the interpreter.
          platform: of JAX's devices; torch uses the like.
          allocator: let malloc keep freed memory there, as `jaxcnn.backend.keep_freed_memory` does here.

        Raises:
          UsageError: there is no such interpreter, it has no torch, or torch cannot use such a device.
        """
        option, device = "--torch-python", {"cpu": "cpu", "gpu": "cuda"}.get(platform)
        if device is None:
            raise UsageError(
                f"{option} {python}: torch is compared with on cpu and gpu, this is {platform}: leave it out"
            )
        arguments = ["--device", device, *([] if allocator else ["--no-allocator"])]
        super().__init__(python, "torch_peer.py", option, "torch", arguments)

    def timer(self, number: int) -> Timer:
        """Return the timer of the workload called `number`."""
        return lambda calls: self.ask("time", id=number, calls=calls)["seconds"]
