"""Trace files: what was written is read, by us and by others; full disks."""

import errno
import json
import re

import numpy as np
import pytest
from helpers import traces

from moejax.analysis import full_disk, trace_file
from moejax.analysis.trace_writer import TraceWriter, part_of
from moejax.core import errors


@pytest.fixture
def path(tmp_path):
  return tmp_path / '00000100.parquet'


@pytest.mark.parametrize('k', [1, 3])
@pytest.mark.parametrize('logits', [False, True])
def test_a_trace_is_read_as_it_was_written(path, k, logits):
  batches = [
    traces.made_up(40, k=k, logits=logits, seed=0),
    traces.made_up(17, k=k, logits=logits, seed=1),
  ]
  router = {'router.k': k, 'router.name': 'top_k'}
  traces.write(path, batches, tokenizer='t', model='m', router=router)
  file = trace_file.TraceFile(path)
  traces.assert_same(file.read(), *batches)
  for got, want in zip(file.batches(), batches, strict=True):
    traces.assert_same(got, want)
  read = file.read()
  for name in ('step', 'tokens_seen', 'layers', 'num_experts', 'domains'):
    assert getattr(read, name) == getattr(batches[0], name)
  assert file.header.router == router
  assert (file.num_tokens, file.num_batches) == (57, 2)


def test_a_batch_is_a_row_group_and_one_without_tokens_is_none(path):
  batches = [traces.made_up(count) for count in (9, 0, 4)]
  traces.write(path, batches)
  file = trace_file.TraceFile(path)
  assert [len(batch.token_T) for batch in file.batches()] == [9, 4]


def test_the_domains_keep_their_order_whichever_comes_first(path):
  from pyarrow import parquet

  trace = traces.made_up(10)
  backwards = trace.only(np.arange(10)[::-1])
  traces.write(path, [backwards])
  traces.assert_same(trace_file.read(path), backwards)
  # Rewritten with names in place of numbers: the first row's name comes first.
  table = parquet.read_table(path)
  place = table.schema.get_field_index('domain')
  names = table['domain'].cast('string')
  plain = table.set_column(place, 'domain', names)
  parquet.write_table(plain, path)
  traces.assert_same(trace_file.read(path), backwards)


def test_one_layer_is_read_without_the_others(path):
  trace = traces.made_up(30, logits=True)
  traces.write(path, [trace])
  read = trace_file.read(path, layers=[3])
  assert read.layers == (3,)
  np.testing.assert_array_equal(read.expert_TNK, trace.expert_TNK[:, 1:])
  np.testing.assert_array_equal(read.logits_TNE, trace.logits_TNE[:, 1:])
  with pytest.raises(errors.InputError, match='unknown layer 2.*are: 1, 3'):
    trace_file.read(path, layers=[2])


def test_pandas_reads_the_documented_columns_in_one_line(path):
  pandas = pytest.importorskip('pandas')
  trace = traces.made_up(50, logits=True)
  traces.write(path, [trace])
  frame = pandas.read_parquet(path)
  documented = re.findall(
    r'^  (\w+) +(?:int|string|float|bool)', trace_file.__doc__, re.M
  )
  layered = [name for name in documented if name.endswith('_N')]
  assert list(frame) == [
    *(name for name in documented if name not in layered),
    *(f'{name[:-1]}{n}' for name in layered for n in traces.LAYERS),
  ]
  assert set(frame.step) == {100}
  assert list(frame.domain) == [trace.domains[i] for i in trace.domain_T]
  np.testing.assert_array_equal(
    np.stack(frame.experts_3), trace.expert_TNK[:, 1]
  )
  np.testing.assert_array_equal(frame.entropy_1, trace.entropy_TN[:, 0])


def test_the_metadata_is_json_under_the_documented_key(path):
  from pyarrow import parquet

  traces.write(path, [traces.made_up()], tokenizer='t', model='m')
  metadata = json.loads(parquet.read_schema(path).metadata[b'moejax_trace'])
  assert metadata['layers'] == [1, 3]
  assert metadata['num_experts'] == traces.EXPERTS
  assert metadata['tokens_seen'] == 1000
  assert (metadata['tokenizer'], metadata['model']) == ('t', 'm')


def test_what_is_no_trace_is_one_line(path, tmp_path):
  import pyarrow as pa
  from pyarrow import parquet

  with pytest.raises(errors.InputError, match='cannot be read: No such file'):
    trace_file.read(path)
  path.write_text('a text that is no Parquet at all')
  with pytest.raises(errors.InputError, match='is not Parquet'):
    trace_file.read(path)
  parquet.write_table(pa.table({'a': [1]}), path)
  with pytest.raises(errors.InputError, match='moejax trace writes traces'):
    trace_file.read(path)
  traces.write(path, [traces.made_up()])
  schema = parquet.read_schema(path)
  metadata = json.loads(schema.metadata[trace_file.KEY]) | {'version': 2}
  schema = schema.with_metadata({trace_file.KEY: json.dumps(metadata)})
  parquet.write_table(parquet.read_table(path).cast(schema), path)
  with pytest.raises(errors.InputError, match='a trace of version 2'):
    trace_file.read(path)


def test_a_file_is_whole_or_absent(path):
  batch = traces.made_up()

  def write(batches, error=None):
    with TraceWriter(path, traces.header(batch)) as writer:
      for each in batches:
        writer.add(each)
      assert part_of(path).exists()
      assert not path.exists()
      if error:
        raise error

  with pytest.raises(KeyboardInterrupt):
    write([batch], KeyboardInterrupt())
  assert not list(path.parent.iterdir())
  with pytest.raises(ValueError, match='no batch'):
    write([])
  assert not list(path.parent.iterdir())
  write([batch])
  assert list(path.parent.iterdir()) == [path]


class _Disk:
  """A disk of limited room: `open` of `full_disk` writes to it."""

  def __init__(self, folder, room):
    self.folder, self.room = folder, room

  def open(self, path, mode, buffering):
    file = open(path, mode, buffering=buffering)  # noqa: SIM115
    write = file.write

    def limited(data):
      used = sum(path.stat().st_size for path in self.folder.iterdir())
      if used >= self.room:
        raise OSError(errno.ENOSPC, 'No space left on device')
      return write(memoryview(data)[: self.room - used])

    return _File(file, limited)


class _File:
  """A file with another `write`."""

  def __init__(self, file, write):
    self._file, self.write = file, write

  def __getattr__(self, name):
    return getattr(self._file, name)

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._file.close()


@pytest.mark.parametrize('room', [60_000, 123_456, 200_000, 300_001])
def test_what_was_written_before_a_disk_was_full_can_be_read(
  path, monkeypatch, room
):
  disk = _Disk(path.parent, room)
  monkeypatch.setattr(full_disk, 'open', disk.open, raising=False)
  batches = [traces.made_up(300, seed=seed) for seed in range(40)]
  with pytest.raises(errors.StoppedError) as stopped:
    traces.write(path, batches)
  part = part_of(path)
  # Neither the file, nor what was reserved for its end.
  assert list(path.parent.iterdir()) == [part]
  file = trace_file.TraceFile(part)
  assert 1 <= file.num_batches < len(batches)
  traces.assert_same(file.read(), *batches[: file.num_batches])
  assert part.name in str(stopped.value)
  assert f'{file.num_tokens:,} tokens' in str(stopped.value)
  assert part.stat().st_size <= room
  # With more room, the same command replaces it.
  disk.room = 10**9
  traces.write(path, batches)
  assert list(path.parent.iterdir()) == [path]


def test_a_disk_without_room_for_one_batch_leaves_nothing(path, monkeypatch):
  disk = _Disk(path.parent, 100)
  monkeypatch.setattr(full_disk, 'open', disk.open, raising=False)
  with pytest.raises(OSError, match='No space') as error:
    traces.write(path, [traces.made_up(300)])
  assert error.value.errno == errno.ENOSPC
  assert not list(path.parent.iterdir())
