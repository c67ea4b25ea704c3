"""The runs of a sweep as a pool of processes takes them, and what is said."""

import collections
import time
from collections.abc import Sequence

from moejax.core import exits, terminal
from moejax.run import screen
from moejax.sweep import results
from moejax.sweep.grid import SweepRun
from moejax.sweep.pool import Outcome
from moejax.sweep.sweep import Sweep

# Exit codes after which a run is tried again; trying again does not mend an
# error in a config, a loss that is not finite, or too little memory.
AGAIN = frozenset({exits.BUG, exits.STUCK, exits.LOST})


class ListWork:
  """Runs of a list, in its order; those that fail are tried again.

  Attributes:
    codes: exit codes of the last process of each run, by its name.
  """

  def __init__(
    self,
    sweep: Sweep,
    todo: Sequence[SweepRun],
    processes: int,
    retries: int = 0,
  ):
    """Starts nothing.

    Args:
      sweep: the sweep.
      todo: those of its runs that are to be trained.
      processes: how many train at a time.
      retries: how often a run that fails is started again.
    """
    self.codes: dict[str, int] = {}
    self._sweep, self._processes = sweep, processes
    self._todo = collections.deque(todo)
    self._tries = dict.fromkeys((run.name for run in todo), retries)
    self._num, self._num_done, self._begin = len(todo), 0, time.monotonic()

  def take(self) -> SweepRun | None:
    """The next run."""
    if not self._todo:
      return None
    run = self._todo.popleft()
    say(f'{run.name}: started')
    return run

  def stops(self, run: SweepRun) -> bool:
    """No run is stopped before its end."""
    del run
    return False

  def ended(self, run: SweepRun, outcome: Outcome) -> None:
    """Keeps how a run ended, and says so."""
    self.codes[run.name] = outcome.code
    results.record(self._sweep.folder, run, outcome, self._processes)
    spent = screen.duration(outcome.seconds)
    if outcome.code == exits.INTERRUPTED:
      say(f'{run.name}: interrupted after {spent}')
      return
    end = f'finished in {spent}'
    if outcome.code:
      end = f'failed: {outcome.message} ({self._sweep.log(run)})'
      if outcome.code in AGAIN and self._tries[run.name]:
        self._tries[run.name] -= 1
        self._todo.append(run)
        say(f'{run.name}: {end}; it is tried again')
        return
    self._done(run, end)

  def _done(self, run: SweepRun, end: str) -> None:
    """Says how a run ended, and how long the others will take."""
    self._num_done += 1
    spent_s = time.monotonic() - self._begin
    left_s = spent_s / self._num_done * (self._num - self._num_done)
    say(
      f'{run.name}: {end}; {self._num_done} of {self._num} done, about '
      f'{screen.duration(left_s)} left'
    )


def say(line: str) -> None:
  """Prints a line; a closed terminal must not stop the runs."""
  with terminal.outlived():
    terminal.say(line)
