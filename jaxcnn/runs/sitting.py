"""One sitting of a run: from where its folder stands."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxcnn.errors import RunError
from jaxcnn.runs.folder import check_data, write_identity
from jaxcnn.runs.recorder import Recorder
from jaxcnn.runs.session import Session
from jaxcnn.train.checkpoint import Checkpoints
from jaxcnn.train.log import Log
from jaxcnn.train.loop import Position
from jaxcnn.train.parallel import together
from jaxcnn.train.progress import Shown

# Files that are no examples, in a message.
_LISTED = 5


class Sitting:
    """A run taken up, for a session in which it is to go on.

    Attributes:
      state: to go on from.
      position: to go on from; kept up to date by the loop.
      reports: lines to show, of damaged checkpoints and changed environments.
    """

    def __init__(self, session: Session, folder: Path, *, own_step: bool = True) -> None:
        """Read where the run in a folder stands; a new one stands at the start.

        Args:
          session: in which it is to go on.
          folder: of the run.
          own_step: the session's own training step is what will be used; it is compiled until `begin` is done.

        Raises:
          UsageError: the session's data are not those of the run.
          RunError: no checkpoint is good, or another version of jaxcnn wrote it.
        """
        self.session, self.folder = session, folder
        self.checkpoints = Checkpoints(folder / "checkpoints")
        with together():
            check_data(folder, session)
            if jax.process_index() == 0:
                self.checkpoints.recover()
        self.reports: list[str] = []
        newest = max(self.checkpoints.steps(), default=0)
        trains = own_step and newest < session.timetable.total_steps
        self._wait_for_step = session.compile_meanwhile(newest) if trains else lambda: None
        try:
            like = session.abstract_state(session.parallel.replicated)
            self.state, values, self.reports = self.checkpoints.restore_newest(like)
        except LookupError:
            self.state, values = session.initial_state(), {}
        try:
            self.position = Position(**values)
        except TypeError as error:
            path = self.checkpoints.path(int(self.state.step))
            raise RunError(f"the position in {path} was written by another version of jaxcnn ({error})") from error
        session.restore_bad_examples(self.position.bad_examples)

    def begin(self, shown: Shown, started: float, seeds: dict[str, Any] | None = None) -> Recorder:
        """Make the folder ready to go on, and return what records it.

        Args:
          shown: where to show progress, and the reports now.
          started: when this sitting began, by `time.perf_counter`.
          seeds: `mode` and `seeds`, where several train together.
        """
        log, reports = None, self.reports
        with together():
            if jax.process_index() == 0:
                # The other ways to train several seeds change no bits.
                mode = "vmap" if seeds is not None and seeds["mode"] == "vmap" else None
                reports = reports + write_identity(self.folder, self.session, mode)
                (self.folder / "result.json").unlink(missing_ok=True)  # of a stop
                self.checkpoints.drop_after(self.position.step)
                log = Log(self.folder, self.position.step, tensorboard=self.session.experiment.checkpoint.tensorboard)
        for report in [*reports, *_describe_ignored(self.session.ignored)]:
            shown.say(report)
        self._wait_for_step()
        started -= self.position.wall_seconds
        return Recorder(self.session, self.folder, self.checkpoints, shown, started, log, seeds)


def _describe_ignored(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    listed = f"{', '.join(names[:_LISTED])}{', ...' if len(names) > _LISTED else ''}"
    return [f"{len(names)} files are not images and are passed over (see data.json): {listed}"]
