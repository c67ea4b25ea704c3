"""The runs of a search as a pool of processes takes them: chosen and pruned."""

import time
from collections.abc import Sequence

from moejax.core import errors, exits
from moejax.run import resources
from moejax.sweep import results, trials
from moejax.sweep.grid import SweepRun
from moejax.sweep.pool import Outcome
from moejax.sweep.sweep import Sweep
from moejax.sweep.work import ListWork, say

LOSS = 'eval/loss'  # nats per token, the mean over the validation sets
LOOK_S = 1.0  # time between two looks at the evaluations of a run, in seconds


class SearchWork(ListWork):
  """Runs of a search, whose values are chosen when a process is free."""

  def __init__(
    self,
    sweep: Sweep,
    todo: Sequence[SweepRun],
    processes: int,
    retries: int = 0,
  ):
    """As ListWork; runs that ended unseen are told to the search first."""
    super().__init__(sweep, todo, processes, retries)
    # By name: step of the last evaluation that was read, when that was, and at
    # which step the run was pruned.
    self._known: dict[str, int] = {}
    self._looked: dict[str, float] = {}
    self._pruned: dict[str, int] = {}
    for run in sweep.chosen:
      if sweep.is_done(run) and sweep.journal.is_open(sweep.index(run)):
        self._tell_done(run)

  def take(self) -> SweepRun | None:
    """The next run whose values make a config; the others have failed."""
    while self._todo:
      waiting = self._todo.popleft()
      values = self._sweep.journal.begin(self._sweep.index(waiting))
      shown = ' '.join(f'{key}={text}' for key, text in values.items())
      try:
        run = self._sweep.with_values(waiting, values)
      except errors.InputError as e:
        self.ended(waiting, Outcome(exits.BAD_INPUT, f'error: {e}', 0.0))
        continue
      say(f'{run.name}: started with {shown}')
      return run
    return None

  def stops(self, run: SweepRun) -> bool:
    """Whether the pruner has ended a run, by its evaluations so far."""
    now = time.monotonic()
    if now - self._looked.get(run.name, -LOOK_S) >= LOOK_S:
      self._looked[run.name] = now
      self._look(run)
    return run.name in self._pruned

  def ended(self, run: SweepRun, outcome: Outcome) -> None:
    """Tells the search how a run ended, keeps it, and says so."""
    self._look(run)
    step = self._pruned.get(run.name)
    if step is None:
      super().ended(run, outcome)
      if outcome.code == exits.DONE:
        self._tell_done(run)
      elif outcome.code != exits.INTERRUPTED:
        self._sweep.journal.fail(self._sweep.index(run))
      return
    # The search has pruned it, even if it came to its end before it heard.
    self.codes[run.name] = exits.DONE
    done = Outcome(exits.DONE, '', outcome.seconds)
    results.record(self._sweep.folder, run, done, self._processes, step)
    self._sweep.journal.prune(self._sweep.index(run))
    self._done(run, f'pruned at step {step}')

  def _look(self, run: SweepRun) -> None:
    """Tells the search of new evaluations, until the pruner ends the run."""
    path = self._sweep.folder / run.name / resources.METRICS
    steps = self._sweep.configs[run.name].train.steps
    known, index = self._known.get(run.name, -1), self._sweep.index(run)
    for step, loss in trials.evaluations(path, LOSS, known):
      if run.name in self._pruned or step >= steps:
        return  # at its end a run is not worth ending
      self._known[run.name] = step
      if self._sweep.journal.report(index, step, loss):
        self._pruned[run.name] = step

  def _tell_done(self, run: SweepRun) -> None:
    result, index = self._sweep.result(run), self._sweep.index(run)
    if result['status'] == results.PRUNED:
      self._sweep.journal.prune(index)
    else:
      self._sweep.journal.finish(index, result['loss'])
