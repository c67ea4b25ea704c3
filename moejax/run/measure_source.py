"""Source: the traces of a run for measures, and the rows that are kept of them.

  WORKDIR/analysis/saturation.json    rows of a measure, for all traces

A file has the fingerprint of the traces that it was made of; if they are others
now, the measure is computed anew.
"""

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Callable, Sequence

import jax
from etils import epath

from moejax.analysis import MEASURES
from moejax.analysis.measure import Measure, Rows
from moejax.analysis.trace_file import Header
from moejax.analysis.trace_folder import TraceFolder
from moejax.analysis.traces import Traces
from moejax.core import errors, files
from moejax.plan import count
from moejax.run import expert_outputs, restore, trace_files, trained

FOLDER = 'analysis'  # of a workdir
SOON_READ = 100_000_000  # parameters: 0.4 GB in float32
VERSION = 1  # of the rows: a change of a measure's rows or definition
Note = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class TraceChoice:
  """Which traces are looked at.

  Attributes:
    place: folder of traces, or files joined by commas; None for the folder
      `traces` of the workdir.
    domains: names of the domains; None for all.
    step: the last checkpoint, see `RunCheckpoints.find`; earlier ones are those
      to compare with.
  """

  place: str | None = None
  domains: tuple[str, ...] | None = None
  step: str = 'newest'

  @property
  def is_whole(self) -> bool:
    """Whether it is all that the workdir has."""
    return self == TraceChoice()


class NoTracesError(errors.InputError):
  """A workdir has no traces."""


@dataclasses.dataclass(frozen=True)
class Source:
  """The traces of a run, and the rows of measures that are kept beside them.

  Attributes:
    workdir: of the run.
    folder: the traces.
    traces: the same for measures; the last one is read once for all of them.
    keeps: whether rows are kept in the workdir, as for all of its traces and
      domains; else they are of a choice of these.
    writes: whether rows that are computed are written there.
  """

  workdir: str
  folder: TraceFolder
  traces: Traces
  keeps: bool
  writes: bool = True

  @property
  def last_step(self) -> int:
    """Step of the last checkpoint."""
    return self.folder.files[-1].header.step

  @property
  def fingerprint(self) -> str:
    """Identifies the traces."""
    traced = [
      [file.header.to_json(), file.num_tokens] for file in self.folder.files
    ]
    text = json.dumps([VERSION, traced])
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  def reads_weights(self) -> bool:
    """Whether the weights of the last checkpoint are there, and soon read.

    Soon read are those of at most `SOON_READ` parameters, by the only process
    of a program: several would have to read them together.
    """
    if jax.process_count() > 1:
      return False
    with restore.checkpoints(self.workdir) as saved:
      if self.last_step not in saved.steps():
        return False
    model = restore.run_of(self.workdir).model
    return count.count(model).total <= SOON_READ

  def path(self, name: str) -> epath.Path:
    """The file of a measure's rows."""
    return epath.Path(self.workdir) / FOLDER / f'{name}.json'

  def kept(self, name: str) -> Rows | None:
    """The rows of a measure if they are of these traces; else None."""
    path = self.path(name)
    if not self.keeps or not path.exists():
      return None
    try:
      value = json.loads(path.read_text())
      same = value['fingerprint'] == self.fingerprint
    except (ValueError, KeyError, TypeError):
      return None  # damaged, or of somebody else: it is made anew
    return value['rows'] if same else None

  def rows(
    self,
    name: str,
    overrides: Sequence[tuple[str, str]] = (),
    limit: int = 0,
    note: Note = lambda _: None,
  ) -> Rows:
    """The rows of a measure, read from its file or computed."""
    measure = MEASURES[name]
    # Weights and outputs depend on more than the traces.
    reads_model = measure.needs in ('weights', 'outputs')
    whole = self.keeps and not (reads_model and (overrides or limit))
    if whole and (kept := self.kept(name)) is not None:
      return kept
    note(f'Measuring {name} ...')
    result = measure(self._input(measure, overrides, limit, note))
    if whole and self.writes:
      self._keep(name, result, note)
    return result

  def _keep(self, name: str, result: Rows, note: Note) -> None:
    """Writes the rows of a measure, if the workdir can be written to."""
    path = self.path(name)
    value = {
      'measure': name,
      'fingerprint': self.fingerprint,
      'steps': [file.header.step for file in self.folder.files],
      'domains': list(self.folder.header.domains),
      'rows': result,
    }
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      files.atomic_write_json(path, value)
    except OSError as error:
      reason = error.strerror or error
      note(f'{path} cannot be written ({reason}); the rows are not kept')

  def _input(
    self,
    measure: Measure,
    overrides: Sequence[tuple[str, str]],
    limit: int,
    note: Note,
  ) -> Traces:
    """The traces, with what else the measure needs of the last checkpoint."""
    if measure.needs not in ('weights', 'outputs'):
      return self.traces
    if measure.needs == 'outputs':
      # In float32, unless the user says otherwise: cosines are of differences.
      overrides = [('model.dtype', 'float32'), *overrides]
    opened = trained.open_trained(self.workdir, overrides, trained.USED)
    weights, _ = opened.weights(str(self.last_step), note)
    if measure.needs == 'weights':
      by_layer = expert_outputs.expert_weights(opened.model, weights)
      return dataclasses.replace(self.traces, weights=by_layer)
    outputs = expert_outputs.expert_outputs(
      opened.model, weights, self.traces.last, limit=limit
    )
    return dataclasses.replace(self.traces, outputs=outputs)


def open_source(
  workdir: str,
  choice: TraceChoice = TraceChoice(),
  several: str | None = None,
) -> Source:
  """The traces of a run, for measures.

  Args:
    workdir: of the run.
    choice: the traces.
    several: name of a measure that needs at least two checkpoints, if there is
      one.

  Raises:
    InputError: as `analyse`, or the traces are of another run.
  """
  command = f'moejax trace --workdir={shlex.quote(workdir)}'
  own = epath.Path(workdir) / trace_files.FOLDER
  place = choice.place or str(own)
  if choice.place is None and not any(own.glob('*.parquet')):
    every = ' --checkpoints=all' if several else ''
    raise NoTracesError(
      f'{workdir} has no traces; make some with {command}{every}'
    )
  folder = TraceFolder(place, domains=choice.domains)
  if choice.place is not None:
    _check_run(workdir, place, folder.header)
  known = [file.header.step for file in folder.files]
  if choice.step != 'newest':
    at = _step_of(workdir, choice.step)
    if at not in known:
      raise errors.InputError(
        f'there is no trace of step {at} in {place}, but of '
        f'{", ".join(map(str, known))}; make one with {command} '
        f'--checkpoints={at}'
      )
    folder.files = [file for file in folder.files if file.header.step <= at]
  if several and len(folder.files) < 2:
    raise errors.InputError(
      f'{several} compares checkpoints, and {place} has none before step '
      f'{folder.files[-1].header.step}; trace more with {command} '
      '--checkpoints=all'
    )
  return Source(workdir, folder, Traces(folder), choice.is_whole)


def _step_of(workdir: str, step: str) -> int:
  """The step of a checkpoint that a user names; see `RunCheckpoints.find`."""
  if step.isdecimal():
    return int(step)  # the checkpoint may be gone, if its trace is there
  with restore.checkpoints(workdir) as saved:
    return saved.find(step).step


def _check_run(workdir: str, place: str, header: Header) -> None:
  """Raises InputError if traces are not of the run in a workdir."""
  opened = trained.open_trained(workdir)
  vocab = opened.run.data.vocab
  if header.tokenizer and header.tokenizer != vocab.fingerprint():
    raise errors.InputError(
      f'{place} has traces of another tokenizer than that of {workdir}: their '
      'token ids mean other text'
    )
  with restore.checkpoints(workdir) as saved:
    extra = saved.find(str(saved.choose('last')[0])).extra
  run = restore.run_of(workdir)
  if header.model != trace_files.fingerprint(run, opened.model, extra):
    raise errors.InputError(
      f'{place} has traces of another model than that of {workdir}; trace this '
      f'one with moejax trace --workdir={shlex.quote(workdir)}'
    )
