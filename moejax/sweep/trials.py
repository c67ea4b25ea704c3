"""Trials: what optuna keeps of a search, in a journal in the sweep's workdir.

Several processes, also on several machines with one disk, can use the journal
at a time. A trial belongs to a run by the run's index. Optuna is imported here
alone: pip install 'moejax[search]'.
"""

import importlib.util
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from moejax.core import errors, files, resume
from moejax.sweep.searches import PRUNERS, Search

JOURNAL = 'search.journal'
INDEX, IDENTITY = 'run', 'search'  # attributes of trials and of the study
# Trials differ by their seeds; these do not come near to each other.
STRIDE = 1_000_003


def check(folder: epath.Path) -> None:
  """Raises InputError if there can be no journal in a folder."""
  if importlib.util.find_spec('optuna') is None:
    raise errors.InputError(
      "sweep.search needs optuna: pip install 'moejax[search]'"
    )
  if not files.is_local(folder):
    raise errors.InputError(
      'a search keeps a journal, to which an object store cannot append: '
      f'--workdir={folder} must be on a disk'
    )


class Trials:
  """The trials of a search."""

  def __init__(self, folder: epath.Path, search: Search):
    """Opens the journal, which is made if it is not there.

    Raises:
      InputError: optuna is missing, the folder is in an object store, or the
        journal is that of another search.
    """
    check(folder)
    import optuna
    import optuna.storages.journal as journals

    self._optuna, self._search = optuna, search
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    path = os.fspath(folder / JOURNAL)
    storage = optuna.storages.JournalStorage(journals.JournalFileBackend(path))
    self._study = optuna.create_study(
      storage=storage,
      study_name=IDENTITY,
      pruner=PRUNERS[search.pruner](optuna, search),
      load_if_exists=True,
      direction='minimize',
    )
    identity = search.identity()
    kept = self._study.user_attrs.get(IDENTITY)
    if kept is None:
      self._study.set_user_attr(IDENTITY, identity)
    elif kept != identity:
      keys = sorted({*kept, *identity})
      changed = {
        key: (kept.get(key), identity.get(key))
        for key in keys
        if kept.get(key) != identity.get(key)
      }
      raise errors.InputError(
        f'{folder} has the trials of another search: '
        f'{resume.listed(changed)}; use another --workdir'
      )

  def values(self, index: int) -> dict[str, str] | None:
    """The values of a run's searched keys; None if none are chosen yet."""
    trial = self._trial(index)
    return None if trial is None else self._texts(trial)

  def is_open(self, index: int) -> bool:
    """Whether a run has a trial whose end is not known."""
    return self._state(index) == self._states.RUNNING

  def begin(self, index: int) -> dict[str, str]:
    """The values of a run that is to be trained.

    They are chosen if it has none; a run that failed has those it had.
    """
    trial = self._trial(index)
    space = {
      key: values.distribution(self._optuna)
      for key, values in self._search.space.items()
    }
    if trial is None:
      seed = (self._search.seed + STRIDE * index) % 2**32
      self._study.sampler = self._optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=self._search.startup,
        # A trial at work counts as a bad one, so the next is drawn elsewhere.
        constant_liar=True,
      )
      asked = self._study.ask(space)
      asked.set_user_attr(INDEX, index)
    elif trial.state == self._states.FAIL:
      again = self._optuna.trial.create_trial(
        state=self._states.RUNNING,
        params=trial.params,
        distributions=space,
        user_attrs={INDEX: index},
      )
      self._study.add_trial(again)
    return self.values(index) or {}

  def report(self, index: int, step: int, loss: float) -> bool:
    """Tells the loss of an evaluation; whether the run is to be pruned."""
    trial = self._trial(index)
    if trial is None or trial.state != self._states.RUNNING:
      return False
    if step in trial.intermediate_values:  # known from before an interruption
      return False
    live = self._optuna.trial.Trial(self._study, trial._trial_id)
    live.report(loss, step)
    return live.should_prune()

  def finish(self, index: int, loss: float | None) -> None:
    """Tells the loss of a finished run; without a finite one it has failed."""
    if loss is None or not math.isfinite(loss):
      self.fail(index)
    else:
      self._tell(index, self._states.COMPLETE, loss)

  def prune(self, index: int) -> None:
    """Tells that a run was pruned."""
    self._tell(index, self._states.PRUNED)

  def fail(self, index: int) -> None:
    """Tells that a run failed."""
    self._tell(index, self._states.FAIL)

  def _tell(self, index: int, state: Any, loss: float | None = None) -> None:
    trial = self._trial(index)
    if trial is not None and trial.state == self._states.RUNNING:
      # Another process may tell it in between.
      self._study.tell(trial.number, loss, state=state, skip_if_finished=True)

  @property
  def _states(self) -> Any:
    return self._optuna.trial.TrialState

  def _state(self, index: int) -> Any:
    trial = self._trial(index)
    return None if trial is None else trial.state

  def _trial(self, index: int) -> Any:
    """The last trial of a run, or None."""
    found = [
      trial
      for trial in self._study.get_trials(deepcopy=False)
      if trial.user_attrs.get(INDEX) == index
    ]
    return found[-1] if found else None

  def _texts(self, trial: Any) -> dict[str, str]:
    space: Mapping[str, Any] = self._search.space
    return {key: space[key].text(trial.params[key]) for key in space}


def evaluations(
  path: epath.Path, key: str, known: int
) -> list[tuple[int, float]]:
  """The evaluations of a run, step and loss, in order, after step `known`."""
  if not path.exists():
    return []
  found = []
  # Only the lines of evaluations are parsed: there are far more of steps.
  for line in path.read_bytes().splitlines(keepends=True):
    if f'"{key}"'.encode() in line and line.endswith(b'\n'):
      record = json.loads(line)
      if record['step'] > known:
        found.append((record['step'], float(record[key])))
  return found
