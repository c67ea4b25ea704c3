"""Profiles of some training steps, for XProf and in words.

  WORKDIR/profile/
    steps_21-25.txt                      where the time went (profile_summary)
    plugins/profile/DATE/HOST.xplane.pb  for XProf and TensorBoard

The first process writes its own devices. While it profiles, it waits for every
step that begins or ends the profile, which takes a little of the speed.
"""

import contextlib
import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable, Collection
from typing import Any

import jax
from etils import epath

from moejax.core import errors, fields, resume, terminal
from moejax.train import profile_ops, profile_summary

NAME = 'profile'
# Steps of a process that are not profiled: they compile, or wait for that.
FIRST_STEPS = 2


@dataclasses.dataclass(frozen=True)
class Profile(fields.Checked):
  """Which steps are profiled.

  Attributes:
    at: the first of the steps; 0 for no profile. A run that begins later has
      none, and one that begins with this step or the one before takes the
      third that it computes.
    steps: number of steps.
  """

  at: int = resume.key(
    resume.NOTHING, fields.number(0, at_least=0, note='0: no profile')
  )
  steps: int = resume.key(
    resume.NOTHING, fields.number(5, at_least=1, at_most=1000)
  )

  def check(self, num_steps: int) -> None:
    """Raises InputError if the steps are not among those of the run."""
    if self.at and self.at + self.steps - 1 > num_steps:
      raise errors.InputError(
        f'train.profile: {self.steps} steps from {self.at} on end after '
        f'train.steps={num_steps}; lower train.profile.at or '
        'train.profile.steps'
      )


class Profiler:
  """Profiles steps of one start of a run."""

  def __init__(
    self,
    config: Profile = Profile(),
    folder: epath.PathLike = '',
    say: Callable[[str], None] = terminal.say,
    num_steps: int = 0,
  ):
    """Writes nothing yet.

    Args:
      config: which steps.
      folder: workdir of the run.
      say: is called with lines.
      num_steps: of the run.
    """
    self._config, self._say = config, say
    self._to, self._num_steps = epath.Path(folder) / NAME, num_steps
    self._open: contextlib.ExitStack | None = None
    self._local = ''
    self._first, self._last, self._began = 0, 0, 0.0
    self._paused = 0.0
    self._start: int | None = None

  def before(self, step: int, pending: Any) -> None:
    """Begins the profile if it is due with this step.

    Args:
      step: number of the step that comes.
      pending: results of the step before, which ends first.
    """
    if self._start is None:
      self._start = step
      late = step + FIRST_STEPS
      if self._config.at > 0 and step <= self._config.at:
        self._first = max(self._config.at, late)
        self._last = self._first + self._config.steps - 1
        if self._last > self._num_steps:
          self._first = 0
          self._say(
            f'No profile: a run that begins with step {step} has too few of '
            'them left after those that compile.'
          )
    if step != self._first:
      return
    jax.block_until_ready(pending)
    self._open = contextlib.ExitStack()
    self._local = self._open.enter_context(
      tempfile.TemporaryDirectory(prefix='moejax-profile-')
    )
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    jax.profiler.start_trace(self._local, profiler_options=options)
    self._began, self._paused = time.perf_counter(), 0.0

  def step(self, step: int) -> contextlib.AbstractContextManager[Any]:
    """Marks the call of a step in the profile."""
    if self._open is None:
      return contextlib.nullcontext()
    return jax.profiler.StepTraceAnnotation('train', step_num=step)

  def pause(self, seconds: float) -> None:
    """Leaves out time that was no training: evaluations and checkpoints."""
    self._paused += seconds

  def after(self, step: int, results: Any) -> float:
    """Ends the profile after its last step, and writes it.

    Args:
      step: number of the step that was just begun.
      results: its results.

    Returns:
      Seconds that were no training.
    """
    if self._open is None or step != self._last:
      return 0.0
    jax.block_until_ready(results)
    ended = time.perf_counter()
    opened, self._open = self._open, None
    with opened:
      jax.profiler.stop_trace()
      self._write(ended - self._began - self._paused)
    return time.perf_counter() - ended

  def close(self) -> None:
    """Drops a profile that was begun and not ended, and says so."""
    if self._open is not None:
      self._say(
        f'No profile: the run stopped before step {self._last}, the last of '
        'those to profile; for another try, set train.profile.at to a later '
        'step.'
      )
      with self._open:
        jax.profiler.stop_trace()
      self._open = None

  def _write(self, seconds: float) -> None:
    local = pathlib.Path(self._local)
    ops = []
    for file in sorted(path for path in local.rglob('*') if path.is_file()):
      if file.name.endswith('.xplane.pb'):
        ops += profile_ops.read(file)
      to = self._to / file.relative_to(local).as_posix()
      to.parent.mkdir(parents=True, exist_ok=True)
      to.write_bytes(file.read_bytes())
    steps = self._first, self._last
    summary = profile_summary.summarise(
      ops, _programs({op.program for op in ops}), steps, seconds, self._paused
    )
    lines = summary.lines()
    text = self._to / f'steps_{steps[0]}-{steps[1]}.txt'
    text.write_text('\n'.join(lines) + '\n')
    for line in lines:
      self._say(line)
    self._say(f'The profile is in {self._to}: xprof --logdir={self._to}')


def _programs(names: Collection[str]) -> list[str]:
  """The text of the programs of these names that this process has compiled."""
  client = jax.local_devices()[0].client
  return [
    module.to_string()
    for executable in client.live_executables()
    for module in executable.hlo_modules()
    if module.name in names
  ]
