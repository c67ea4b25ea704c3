"""TraceFolder: several checkpoints' traces in order, and what cannot be."""

import weakref

import pytest
from helpers import traces

from moejax.analysis.trace_folder import TraceFolder
from moejax.core import errors


@pytest.fixture
def folder(tmp_path):
  for step in (900, 100, 20):
    path = tmp_path / f'{step:08d}.parquet'
    traces.write(path, [traces.made_up(step=step, seed=step)], model='m')
  return tmp_path


def test_the_traces_come_in_the_order_of_their_steps(folder):
  read = TraceFolder(folder)
  assert [trace.step for trace in read] == [20, 100, 900]
  assert [trace.step for trace in read[1:]] == [100, 900]
  assert read[-1].step == 900
  traces.assert_same(read[1], traces.made_up(step=100, seed=100))
  chosen = TraceFolder(folder, steps=[900, 20])
  assert [trace.step for trace in chosen] == [20, 900]


def test_files_may_be_named_one_by_one(folder):
  named = ','.join(str(folder / f'{step:08d}.parquet') for step in (900, 20))
  assert [trace.step for trace in TraceFolder(named)] == [20, 900]
  with pytest.raises(errors.InputError, match='notes.txt has no trace'):
    TraceFolder(folder / 'notes.txt')


def test_no_trace_is_kept_in_memory(folder):
  first = weakref.ref(TraceFolder(folder)[0])
  assert first() is None
  read = TraceFolder(folder)
  one = weakref.ref(read[0])
  assert one() is None


def test_domains_are_chosen_by_name(folder):
  whole = TraceFolder(folder)[0]
  (news,) = TraceFolder(folder, domains=['news'], steps=[20])
  traces.assert_same(news, whole.of_domain('news'))
  message = "unknown domain 'new'; did you mean 'news'\\? known are: code, news"
  with pytest.raises(errors.InputError, match=message):
    TraceFolder(folder, domains=['new'])


def test_what_cannot_be_compared_is_one_line(folder, tmp_path):
  def refused(match, **more):
    with pytest.raises(errors.InputError, match=match) as error:
      TraceFolder(folder, **more)
    assert '\n' not in str(error.value)

  refused('unknown step of a trace in .* 30', steps=[30])
  refused('no second checkpoint to compare step 20', steps=[20], several=True)
  path = folder / '00000950.parquet'
  for key in ('tokenizer', 'model'):
    made = traces.made_up(step=950)
    traces.write(path, [made], **{'model': 'm', key: 'other'})
    refused(f"00000950.parquet is a trace of another {key} than .*'other'")
  made = traces.made_up(step=950, domains=('code', 'web'))
  traces.write(path, [made], model='m')
  refused(r'another domains than .*\(code, web, and code, news\)')
  traces.write(path, [traces.made_up(step=950)], model='m', request={'text': 1})
  refused('are traces of different tokens')
  empty = tmp_path / 'empty'
  empty.mkdir()
  with pytest.raises(errors.InputError, match='has no trace; make some'):
    TraceFolder(empty)
