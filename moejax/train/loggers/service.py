"""Metrics for another program, sent by a thread that cannot stop a run.

The folder `loggers` of the workdir has a file for each of these loggers:

  {"place": "https://...", "run": "3f2a...", "sent": {"train/loss": 40, ...}}

`run` is the id of the run in the other program, and `sent` the last step that
it has of each metric. When a run resumes from a checkpoint, the same run of the
other program goes on: first with what metrics.jsonl has and it has not, then
with the new steps, of which those before a kill are not sent twice. It is a new
run if training begins anew at step 0, or if `place` is another one.
"""

import json
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from etils import epath

from moejax.core import files, log
from moejax.train.loggers import tags

FOLDER = 'loggers'
# How long the end of a run waits until all metrics are sent, in seconds.
FINISH_S = 60.0


class Service(Protocol):
  """A run of another program. Its methods are called by one thread."""

  def place(self) -> str:
    """Where runs are kept; an id is known in one place only."""
    ...

  def start(self, run: str | None) -> str:
    """Begins a run, or goes on with one.

    Args:
      run: id of the run to go on with; None for a new one.

    Returns:
      The id of the run.
    """
    ...

  def log(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds the values of a step by their tags; one step may come in parts."""
    ...

  def finish(self, complete: bool) -> None:
    """Ends the run, or pauses it if not all steps are done."""
    ...


class ServiceWriter:
  """Writes to a service from a thread, and survives what goes wrong there.

  An error is shown once; from then on nothing is sent. The next start sends
  what is missing.
  """

  def __init__(
    self,
    name: str,
    service: Service,
    folder: epath.Path,
    steps: int,
    say: Callable[[str], None],
  ):
    """Starts nothing yet.

    Args:
      name: of the logger, for its file and its messages.
      service: the other program.
      folder: workdir of the run.
      steps: the step at which the run is complete.
      say: shows a line; called by the thread that writes.
    """
    self._name = name
    self._service = service
    self._folder = folder
    self._steps = steps
    self._say = say
    # Steps with their values, then None at the end.
    self._queue: queue.SimpleQueue[tuple[int, Mapping[str, Any]] | None]
    self._queue = queue.SimpleQueue()
    self._thread: threading.Thread | None = None
    self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
    self._step = 0

  def truncate_after(self, step: int) -> None:
    """Starts the thread, which goes on after `step`."""
    self.close()
    self._thread = threading.Thread(
      target=self._work, args=(step,), name=self._name, daemon=True
    )
    self._thread.start()

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Hands the values of a step to the thread, and shows its error."""
    self._step = step
    if self._thread is not None and self._thread.is_alive():
      self._queue.put((step, values))
    self._show()

  def close(self) -> None:
    """Waits until all is sent, at most FINISH_S seconds."""
    if self._thread is None:
      return
    self._queue.put(None)
    self._thread.join(FINISH_S)
    late = self._thread.is_alive()
    self._thread = None
    self._show()
    if late:
      self._say(
        f'train.loggers.{self._name} has not taken all metrics within '
        f'{FINISH_S:g} s'
      )

  def _show(self) -> None:
    while not self._news.empty():
      self._say(self._news.get())

  def _work(self, begin: int) -> None:
    """The thread: a run of the service, or one line about what went wrong."""
    try:
      self._send(begin)
    # Whatever a library raises; some end the process if there is no network.
    except (Exception, SystemExit) as e:  # noqa: BLE001
      reason = (str(e).strip() or type(e).__name__).splitlines()[0]
      self._news.put(
        f'train.loggers.{self._name} gets no metrics from here on '
        f'({reason}); training goes on'
      )

  def _send(self, begin: int) -> None:
    sent = _Sent(self._folder / FOLDER / f'{self._name}.json')
    sent.begin(self._service.place(), anew=begin == 0)
    sent.run = self._service.start(sent.run)
    sent.keep()
    for step, values in _kept(self._folder / log.METRICS, begin):
      self._log(sent, step, values)
    while (item := self._queue.get()) is not None:
      self._log(sent, *item)
    self._service.finish(self._step >= self._steps)

  def _log(self, sent: '_Sent', step: int, values: Mapping[str, Any]) -> None:
    scalars = {
      name: value
      for name, value in _scalars(values).items()
      if step > sent.last.get(name, -1)
    }
    if scalars:
      self._service.log(step, scalars)
      sent.last |= dict.fromkeys(scalars, step)
      sent.keep()


class _Sent:
  """The file of a logger: its run, and what it was sent."""

  def __init__(self, path: epath.Path):
    self._path = path
    self.place = ''
    self.run: str | None = None
    self.last: dict[str, int] = {}  # step by tag

  def begin(self, place: str, *, anew: bool) -> None:
    """Reads the file, unless a run begins anew or in another place."""
    self.place = place
    if not anew and self._path.exists():
      kept = json.loads(self._path.read_text())
      if kept['place'] == place:
        self.run, self.last = kept['run'], kept['sent']

  def keep(self) -> None:
    """Writes the file."""
    self._path.parent.mkdir(parents=True, exist_ok=True)
    content = {'place': self.place, 'run': self.run, 'sent': self.last}
    files.atomic_write_json(self._path, content)


def _scalars(values: Mapping[str, Any]) -> dict[str, float]:
  """The numbers among the values of a step, by their tags."""
  arrays = {tags.tag(name): np.asarray(v) for name, v in values.items()}
  return {name: float(v) for name, v in arrays.items() if v.ndim == 0}


def _kept(path: epath.Path, last: int) -> list[tuple[int, Mapping[str, Any]]]:
  """Steps of metrics.jsonl up to `last`, with their values."""
  records = log.read(path) if last and path.exists() else []
  return [(r.pop('step'), r) for r in records if r['step'] <= last]
