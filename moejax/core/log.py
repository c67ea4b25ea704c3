"""Metric writers: a file of JSON lines, TensorBoard, or several at once.

A resumed run leaves the files as if it had never stopped. The loop writes the
values of step n before it saves checkpoint n. When a run resumes from
checkpoint n, `truncate_after(n)` removes the values of later steps.

Two runs of one config write the same values, except for measured times, whose
names begin with 'time/'. `deterministic` leaves those out, so that two files
can be compared bit for bit.

An object store (`gs://...`) writes a file whole or not at all and cannot append
to it. There the whole of metrics.jsonl is written again with each line, so
log_every=10 or more is wise. TensorBoard's files, which are larger, are copied
there at most once a minute and on close.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any, Protocol

import jax
import numpy as np
from etils import epath

from moejax.core import errors, files

# The file of a run's metrics in its workdir.
METRICS = 'metrics.jsonl'
TIME = 'time/'
# Least time between two copies of TensorBoard's files to an object store.
PUT_S = 60.0
# Numbers that JSON does not have. As strings they are valid JSON, keep their
# sign, and Python's float() reads them.
NOT_FINITE = ('nan', 'inf', '-inf')


class Writer(Protocol):
  """Writes the values of a step: scalars, or arrays such as load [L, E]."""

  def write(self, step: int, values: Mapping[str, Any]) -> None: ...

  def truncate_after(self, step: int) -> None:
    """Removes the values of steps after `step`; to call before any `write`."""
    ...

  def close(self) -> None: ...


def _to_json(value: Any) -> Any:
  """A value as JSON that `read` turns back into the same numbers.

  Args:
    value: a scalar, an array, text, or a dictionary of these.
  """
  if isinstance(value, Mapping):
    return {name: _to_json(inner) for name, inner in value.items()}
  value = np.asarray(value)
  if value.dtype.kind == 'U':
    return value.tolist()
  if value.dtype.kind not in 'biuf':  # bfloat16 and other types of ml_dtypes
    value = value.astype(np.float32)
  return jax.tree.map(
    lambda x: x if math.isfinite(x) else str(x), value.tolist()
  )


def _from_json(value: Any) -> Any:
  if isinstance(value, list):
    return [_from_json(x) for x in value]
  if isinstance(value, dict):
    return {name: _from_json(inner) for name, inner in value.items()}
  return float(value) if value in NOT_FINITE else value


class JsonlWriter:
  """Writes one JSON line per step, flushed to disk before `write` returns.

  Example, `write(3, {'loss': np.float32(0.5), 'time/step_s': nan})`:
    {"step": 3, "loss": 0.5, "time/step_s": "nan"}

  A line cut by a kill is removed when the file is opened. Numbers that are not
  finite are written as the strings "nan", "inf" and "-inf".
  """

  def __init__(self, path: epath.PathLike):
    self._path = epath.Path(path)
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._file: IO[str] | None = None
    # The whole text of the file, if it is in an object store.
    self._text: str | None = None
    self._keep(math.inf)

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Appends a line.

    Raises:
      ValueError: a value is called 'step'.
      StoppedError: somebody has removed the file.
    """
    if 'step' in values:
      raise ValueError("a value may not be called 'step'")
    record = {'step': int(step)}
    record.update((name, _to_json(value)) for name, value in values.items())
    line = json.dumps(record, allow_nan=False) + '\n'
    if files.is_local(self._path):
      self._append(line)
    else:
      self._put(line)

  def truncate_after(self, step: int) -> None:
    """Removes the lines of steps after `step`; keeps the others unchanged."""
    self._keep(step)

  def close(self) -> None:
    """Closes the file; a later write opens it again."""
    self._text = None
    if self._file is not None:
      self._file.close()
      self._file = None

  def _append(self, line: str) -> None:
    if self._file is None:
      self._file = self._path.open('a')
    self._check_there(self._file)
    self._file.write(line)
    self._file.flush()
    # Checkpoints are flushed to disk. A power cut must not lose a line that was
    # written before a checkpoint and keep the checkpoint.
    os.fsync(self._file.fileno())

  def _put(self, line: str) -> None:
    if self._text is None:
      self._text = self._path.read_text() if self._path.exists() else ''
    self._text += line
    self._path.write_text(self._text)

  def _check_there(self, file: IO[str]) -> None:
    # Writing to an open file that was removed raises no error.
    if not os.fstat(file.fileno()).st_nlink:
      raise errors.StoppedError(
        f'{self._path} has vanished; put {self._path.parent} back, or start '
        'again'
      )

  def _keep(self, last: float) -> None:
    """Rewrites the file without cut lines and those of steps after `last`."""
    self.close()
    if not self._path.exists():
      return
    lines = _lines(self._path)
    kept = [s for s in lines if (r := _parse(s)) and r['step'] <= last]
    if len(kept) < len(lines):
      files.atomic_write_text(self._path, b''.join(kept).decode())


def _lines(path: epath.Path) -> list[bytes]:
  # As bytes, because a line may have been cut within a UTF-8 character.
  return path.read_bytes().splitlines(keepends=True)


def _parse(line: bytes) -> dict[str, Any] | None:
  """A whole line's record; None for a line that was cut."""
  if not line.endswith(b'\n'):
    return None
  try:
    record = json.loads(line)
  except ValueError:
    return None
  return record if isinstance(record, dict) and 'step' in record else None


def read(path: epath.PathLike) -> list[dict[str, Any]]:
  """The records of a JSON lines file, in order; a cut line is left out."""
  records = [r for s in _lines(epath.Path(path)) if (r := _parse(s))]
  return [{k: _from_json(v) for k, v in r.items()} for r in records]


def deterministic(record: Mapping[str, Any]) -> dict[str, Any]:
  """A record without measured times; two runs of one config have it equal."""
  return {k: v for k, v in record.items() if not k.startswith(TIME)}


class TensorBoardWriter:
  """Scalars, and arrays as histograms, in TensorBoard's event files.

  NaN in an array stands for what is not there, as the load of an expert that
  its layer does not have, and is left out of the histogram.
  """

  def __init__(
    self,
    folder: epath.PathLike,
    texts: Mapping[str, str] = {},
    hparams: Mapping[str, Any] = {},
    outcomes: Sequence[str] = (),
  ):
    """Writes nothing yet.

    Args:
      folder: of the event files.
      texts: by name, texts in Markdown that each file begins with.
      hparams: hyperparameters by name, which TensorBoard compares over runs.
      outcomes: names of the metrics that are their results.
    """
    self._folder = epath.Path(folder)
    self._texts = dict(texts)
    self._hparams = {name: _hparam(value) for name, value in hparams.items()}
    self._outcomes = tuple(outcomes)
    self._writer: Any = None
    self._purge_step: int | None = None
    self._opened = 0
    # Local folder whose files are copied to an object store: tensorboardX needs
    # a further package for each kind of object store.
    self._local: tempfile.TemporaryDirectory[str] | None = None
    self._put_at = 0.0

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Adds one point per scalar and one histogram per array."""
    writer = self._open()
    for name, value in values.items():
      array = np.asarray(value, np.float32)
      if array.ndim == 0:
        writer.add_scalar(name, float(array), step)
        continue
      array = array[~np.isnan(array)]
      if array.size and np.isfinite(array).all():
        writer.add_histogram(name, array, step)
    if self._local is not None and time.monotonic() - self._put_at > PUT_S:
      writer.flush()
      self._put(self._local.name)

  def truncate_after(self, step: int) -> None:
    """Makes TensorBoard hide the points of older files after `step`."""
    self.close()
    self._purge_step = step + 1

  def close(self) -> None:
    """Flushes and closes the file; a later write begins another one."""
    if self._writer is not None:
      self._writer.close()
      self._writer = None
    if self._local is not None:
      self._put(self._local.name)
      self._local.cleanup()
      self._local = None

  def _put(self, local: str) -> None:
    """Copies a local folder to the object store, and notes the time."""
    self._folder.mkdir(parents=True, exist_ok=True)
    for path in epath.Path(local).iterdir():
      path.copy(self._folder / path.name, overwrite=True)
    self._put_at = time.monotonic()

  def _open(self) -> Any:
    if self._writer is None:
      import tensorboardX  # only the writing process needs it

      if not files.is_local(self._folder):
        self._local = tempfile.TemporaryDirectory(prefix='moejax-events-')
        self._put_at = time.monotonic()
      # File names hold the time in seconds. Without a suffix, a run that is
      # started again within a second would overwrite the file before.
      self._opened += 1
      self._writer = tensorboardX.SummaryWriter(
        str(self._local.name if self._local else self._folder),
        purge_step=self._purge_step,
        filename_suffix=f'.{os.getpid()}.{self._opened}',
      )
      for name, text in self._texts.items():
        self._writer.add_text(name, text, self._purge_step or 0)
      if self._hparams:
        from tensorboardX import summary

        # Of the three the last would say that the run has ended. add_hparams
        # would make a folder of its own, which is another run to TensorBoard.
        results = dict.fromkeys(self._outcomes, 0.0)
        for part in summary.hparams(self._hparams, results)[:2]:
          self._writer.file_writer.add_summary(part)
    return self._writer


def _hparam(value: Any) -> bool | float | str:
  """A value of a config as TensorBoard takes it: what has no type is text."""
  return value if isinstance(value, bool | int | float | str) else str(value)


class MultiWriter:
  """Passes each call to several writers; with no writers it does nothing."""

  def __init__(self, writers: Sequence[Writer]):
    self._writers = tuple(writers)

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes to each."""
    for writer in self._writers:
      writer.write(step, values)

  def truncate_after(self, step: int) -> None:
    """Truncates each."""
    for writer in self._writers:
      writer.truncate_after(step)

  def close(self) -> None:
    """Closes each."""
    for writer in self._writers:
      writer.close()
