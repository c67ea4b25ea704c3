"""TraceFolder: the traces of several checkpoints of a run, read one by one."""

import pathlib
from collections.abc import Sequence
from typing import Any

from moejax.analysis.trace import Trace
from moejax.analysis.trace_file import Header, TraceFile
from moejax.core import errors, table

# Fields of `Header` in which the traces of one run on one text are equal, and
# what a message calls them.
_SAME = {
  'tokenizer': 'tokenizer',
  'model': 'model',
  'layers': 'layers with experts',
  'num_experts': 'number of experts',
  'domains': 'domains',
}


class TraceFolder(Sequence[Trace]):
  """The traces of a folder in the order of their steps, for `Traces.each`.

  An item is read from the disk whenever it is indexed, so that a measure that
  goes through them has two in memory, however many there are.

  Example:
    Traces(TraceFolder('runs/tiny/traces', domains=['code']))

  Attributes:
    files: the files, in the order of their steps.
    domains: names of the domains that are read; None for all.
  """

  def __init__(
    self,
    folder: pathlib.Path | str,
    *,
    steps: Sequence[int] | None = None,
    domains: Sequence[str] | None = None,
    several: bool = False,
  ):
    """Reads the headers of the files and compares them.

    Args:
      folder: folder of files that `moejax trace` wrote, or some of the
        files, joined by commas.
      steps: the checkpoints; None for all.
      domains: names of the domains to read; None for all.
      several: whether at least two checkpoints are needed.

    Raises:
      InputError: there is no trace, no trace of a step, or no second one to
        compare with; the traces are of other tokenizers, models or texts; or
        there is no such domain.
    """
    paths = _paths(folder)
    if not paths:
      raise errors.InputError(
        f'{folder} has no trace; make some with moejax trace --workdir=...'
      )
    opened = {file.header.step: file for file in map(TraceFile, paths)}
    for step in steps or ():
      if step not in opened:
        raise table.unknown(f'step of a trace in {folder}', step, opened)
    self.files = [
      opened[step] for step in sorted(opened if steps is None else {*steps})
    ]
    if several and len(self.files) < 2:
      raise errors.InputError(
        f'{folder} has no second checkpoint to compare step '
        f'{self.files[0].header.step} with; trace more with moejax '
        'trace --checkpoints=all (train.keep_checkpoints_at keeps '
        'checkpoints of a run)'
      )
    for file in self.files[1:]:
      _check_same(self.files[0], file)
    for name in domains or ():
      table.lookup('domain', dict.fromkeys(self.header.domains), name)
    self.domains = None if domains is None else tuple(domains)

  @property
  def header(self) -> Header:
    """The header of the first trace; all others have the same text."""
    return self.files[0].header

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    trace = self.files[index].read()
    if self.domains is None:
      return trace
    return trace.of_domains(self.domains)


def _paths(folder: pathlib.Path | str) -> list[pathlib.Path]:
  """The trace files of a folder, or those that are named."""
  if pathlib.Path(folder).is_dir():
    return sorted(pathlib.Path(folder).glob('*.parquet'))
  named = [pathlib.Path(name) for name in str(folder).split(',')]
  return named if all(path.suffix == '.parquet' for path in named) else []


def _check_same(file: TraceFile, other: TraceFile) -> None:
  """Raises InputError if two traces are not of one run and one text."""
  for field, name in _SAME.items():
    before, now = getattr(file.header, field), getattr(other.header, field)
    if before != now:
      raise errors.InputError(
        f'{other.path} is a trace of another {name} than {file.path} '
        f'({_shown(now)}, and {_shown(before)}): move one of them away, or '
        'trace all checkpoints with one command'
      )
  if file.header.request != other.header.request:
    raise errors.InputError(
      f'{other.path} and {file.path} are traces of different tokens; trace all '
      'checkpoints with one command'
    )


def _shown(value: object) -> str:
  """A value, or those of a tuple, as text for a message."""
  return ', '.join(map(str, value)) if isinstance(value, tuple) else repr(value)
