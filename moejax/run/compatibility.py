"""Whether a run may go on in a workdir that was made with another config.

`core/resume.py` has the kinds of config keys by their effect on a resumed run.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from moejax import config as configs
from moejax.config import Run, kept_tokenizer
from moejax.core import config_tree, errors, resume, table
from moejax.data import build as data_build
from moejax.run import report, restore
from moejax.train import loggers, optimizer, schedule

Say = Callable[[str], None]


def check_workdir(run: Run, workdir: epath.PathLike) -> None:
  """Raises InputError if a run cannot be written to a workdir.

  That is: it has checkpoints of another run, or a logger cannot write.
  """
  loggers.check(run.train.loggers, loggers.Place(epath.Path(workdir)))
  if differing := different(run, workdir):
    raise restore.another_run(differing, str(workdir))


def different(run: Run, workdir: epath.PathLike) -> resume.Changes:
  """The keys on which a run differs from that of a workdir.

  Before the first checkpoint all keys may change. A finished run has begun also
  when its checkpoints were removed: its report is of its config.
  """
  folder = epath.Path(workdir)
  begun = kept_tokenizer.has_begun(folder) or report.read(folder) is not None
  if not begun or not (folder / restore.CONFIG).exists():
    return {}
  return restore.different(run, restore.run_of(str(folder)))


def stale(run: Run, workdir: epath.PathLike) -> resume.Changes:
  """The keys by which the report in a workdir is not that of this run.

  These are keys of the text and of the teacher, whose rows and weights are not
  compared here, and the number of steps if the report is of more steps than the
  run has.
  """
  folder = epath.Path(workdir)
  if not (folder / restore.CONFIG).exists():
    return {}
  old = restore.run_of(str(folder))
  changed = resume.changes(old, run)
  differing = changed[resume.TEXT] | changed[resume.TEACHER]
  if run.train.steps < old.train.steps:
    differing |= changed[resume.LENGTH]
  return differing


def check_checkpoint(
  run: Run, data: data_build.Data, step: int, extra: dict[str, Any], say: Say
) -> None:
  """Compares a run with the checkpoint from which it is to go on.

  Args:
    run: the config.
    data: the rows that the run reads.
    step: step of the checkpoint.
    extra: the checkpoint's own record of its run, made by `extra_of`.
    say: is called with a line on each change that is allowed.

  Raises:
    InputError: a change would alter the result of the run.
  """
  old = configs.of_tree(extra['config'])
  restore.check_same(run, old, 'the checkpoint')
  if step > run.train.steps:
    raise errors.InputError(
      f'train.steps={run.train.steps}, but the run has taken {step} steps '
      f'already: set train.steps={step} or more, or use another --workdir'
    )
  _check_text(run, data, extra)
  changed = resume.changes(old, run)
  if differing := changed[resume.TEXT]:
    say(
      f'{resume.listed(differing, before="before")}: the rows are the same, '
      'and the run goes on with them.'
    )
  if differing := changed[resume.TEACHER]:
    say(
      f'{resume.listed(differing, before="before")}: its weights are the same, '
      'and the run goes on with them.'
    )
  if differing := changed[resume.ROUNDING]:
    say(
      f'Going on with {resume.listed(differing, before="before")}: the same '
      'result but for rounding.'
    )
  _say_not_used(changed, say)
  if changed[resume.LENGTH]:
    say(_longer(run, old, step))


def _say_not_used(changed: dict[str, resume.Changes], say: Say) -> None:
  """Says which keys have changed that matter only when a run begins."""
  if differing := changed[resume.BEGINNING]:
    say(
      f'{resume.listed(differing, before="at the beginning")}: not used, the '
      'run has begun already.'
    )


def extra_of(run: Run, data: data_build.Data) -> dict[str, Any]:
  """A record of a run for its checkpoints: config, and identity of its rows."""
  return {
    'config': config_tree.to_dict(run),
    'data': data_build.identity(data),
    'rows': data_build.contents(data),
  }


def _check_text(run: Run, data: data_build.Data, extra: dict[str, Any]) -> None:
  """Raises InputError if the run would read other rows than before.

  The rows are compared, not the names of texts. Checkpoints of earlier versions
  have only the name of the cache; its rows are compared if it still exists.
  """
  now = data_build.identity(data)
  rows = data_build.contents(data)
  before, rows_before = extra['data'], extra.get('rows', {})

  def same(name: str) -> bool:
    if name not in now or name not in before:
      return False
    if now[name] == before[name]:
      return True
    known = rows_before.get(name)
    known = known or data_build.contents_of(run.data, before[name])
    return known == rows[name]

  changed = [name for name in sorted({*now, *before}) if not same(name)]
  if changed:
    raise errors.InputError(
      f'the text of {", ".join(changed)} has changed since the checkpoint: the '
      'run could not go on with the same rows; use another --workdir, or put '
      'the text back'
    )


def _longer(run: Run, old: Run, step: int) -> str:
  """A line on how a changed number of steps changes the learning rate."""
  before, now = old.train.steps, run.train.steps
  name = table.name_of(schedule.SCHEDULES, run.opt.schedule)
  old_rate, rate = (
    optimizer.learning_rate(config.opt, config.train.steps)
    for config in (old, run)
  )
  left = np.linspace(step, max(step, now - 1), 64).astype(int)
  if all(np.isclose(old_rate(at), rate(at)) for at in left):
    return (
      f'The run has {now} steps now, {before} before; its learning rates stay '
      'as they were.'
    )
  last = np.asarray(old_rate(max(step - 1, 0)))
  following = np.asarray(rate(step))
  return (
    f'The run has {now} steps now, {before} before, and opt.schedule={name} '
    f'depends on that: from here the learning rate is that of a run of {now} '
    f'steps, {following:.3g} at step {step + 1} after {last:.3g} at step '
    f'{step}.'
  )


def say_begun_anew(run: Run, folder: epath.Path, say: Say) -> None:
  """Says that a run without a checkpoint begins anew with another config."""
  if not (folder / restore.CONFIG).exists():
    return
  changed = resume.changes(restore.run_of(str(folder)), run)
  differing = {
    key: values
    for effect, keys in changed.items()
    if effect != resume.NOTHING
    for key, values in keys.items()
  }
  if differing:
    say(
      f'{folder} has no checkpoint yet, so the run begins anew with '
      f'{resume.listed(differing, before="before")}.'
    )


def finished(run: Run, folder: epath.Path, say: Say) -> bool:
  """Whether a run with a report is finished under its present config.

  Args:
    run: the config.
    folder: its workdir.
    say: is called with a line on why the report has to be made anew, and on
      changed keys that are not used after the beginning.

  Raises:
    InputError: the run has taken more than `train.steps` steps.
  """
  old = restore.run_of(str(folder))
  steps = old.train.steps
  if run.train.steps < steps:
    raise errors.InputError(
      f'train.steps={run.train.steps}, but the run in {folder} has all of its '
      f'{steps} steps: set train.steps={steps} or more, or use another '
      '--workdir'
    )
  if run.train.steps > steps:
    say(
      f'This run had all of its {steps} steps; it goes on to '
      f'{run.train.steps}, and the report is made anew.'
    )
    return False
  changed = resume.changes(old, run)
  if text := changed[resume.TEXT]:
    say(
      f'{resume.listed(text, before="before")}: the rows are compared, to see '
      'whether the text is the same.'
    )
    return False
  if taught := changed[resume.TEACHER]:
    say(
      f'{resume.listed(taught, before="before")}: its weights are compared, to '
      'see whether the teacher is the same.'
    )
    return False
  if run.report != old.report:
    say('The report is made anew: report.* has changed.')
    return False
  _say_not_used(changed, say)
  return True
