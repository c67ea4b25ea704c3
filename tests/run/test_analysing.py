"""Measures of the traces in a workdir, and the rows that are kept of them."""

import json
import pathlib

import pytest
from helpers import traced, traces

from moejax import analysis
from moejax.analysis.measure import Measure
from moejax.analysis.traces import Traces
from moejax.core import errors
from moejax.run import analysing, measure_table
from moejax.run.measure_source import TraceChoice

MADE = {step: traced.random(step=step) for step in (10, 20, 40)}


def write(folder, steps, **header):
  """Writes the traces of some steps into a folder."""
  folder.mkdir(parents=True, exist_ok=True)
  for step in steps:
    traces.write(folder / f'{step:08d}.parquet', [MADE[step]], **header)


@pytest.fixture
def workdir(tmp_path):
  write(tmp_path / 'traces', (10, 20))
  return str(tmp_path)


def rows(workdir, name, **choice):
  step = choice.pop('step', 'newest')
  result = analysing.analyse(
    workdir, [name], step=step, choice=TraceChoice(**choice)
  )
  return result['measures'][name]


def expected(name, *steps):
  """The rows from traces in memory, as JSON gives them back."""
  measure = analysis.MEASURES[name]
  value = measure(Traces.of([MADE[step] for step in steps]))
  return json.loads(json.dumps(value))


def kept(workdir, name):
  return pathlib.Path(workdir) / 'analysis' / f'{name}.json'


def refuse(*_):
  raise AssertionError('the rows are computed again')


def test_rows_are_kept_with_the_traces_that_they_are_of(workdir, monkeypatch):
  before = rows(workdir, 'saturation')
  assert before == expected('saturation', 10, 20)
  value = json.loads(kept(workdir, 'saturation').read_text())
  assert value['rows'] == before
  assert value['steps'] == [10, 20]
  assert value['domains'] == ['code', 'news']
  with monkeypatch.context() as patch:
    entry = Measure(refuse, 'several')
    patch.setitem(analysis.MEASURES, 'saturation', entry)
    assert rows(workdir, 'saturation') == before
  # With another checkpoint they are of other traces.
  write(pathlib.Path(workdir) / 'traces', (40,))
  assert rows(workdir, 'saturation') == expected('saturation', 10, 20, 40)


@pytest.mark.parametrize(
  'text', ['', '[]', '{"rows": 1}', '{"fingerprint": 1}']
)
def test_a_damaged_file_is_made_anew(workdir, text):
  kept(workdir, 'margin').parent.mkdir()
  kept(workdir, 'margin').write_text(text)
  assert rows(workdir, 'margin') == expected('margin', 10, 20)
  assert json.loads(kept(workdir, 'margin').read_text())['rows']


def test_a_choice_of_traces_is_not_kept(workdir, tmp_path):
  news = Traces.of([MADE[s].of_domain('news') for s in (10, 20)])
  got = rows(workdir, 'margin', domains=('news',))
  assert got == analysis.MEASURES['margin'](news)
  write(tmp_path / 'traces', (40,))
  assert rows(workdir, 'saturation', step='20') == expected(
    'saturation', 10, 20
  )
  assert not kept(workdir, 'margin').parent.exists()


def test_rows_that_cannot_be_written_are_given_all_the_same(workdir):
  pathlib.Path(workdir, 'analysis').write_text('a file in the way')
  noted = []
  result = analysing.analyse(workdir, ['margin'], note=noted.append)
  assert result['measures']['margin'] == expected('margin', 10, 20)
  assert result['step'] == 20
  assert any('cannot be written' in line for line in noted)


@pytest.mark.parametrize(
  ('name', 'choice', 'words'),
  [
    ('saturatoin', {}, "unknown measure 'saturatoin'; did you mean 'satur"),
    ('margin', {'domains': ('new',)}, "'new'; did you mean 'news'"),
    ('margin', {'step': '30'}, 'no trace of step 30 .* but of 10, 20'),
    ('saturation', {'step': '10'}, 'compares checkpoints, .* before step 10'),
  ],
)
def test_what_is_not_there_is_one_line(workdir, name, choice, words):
  with pytest.raises(errors.InputError, match=words) as error:
    rows(workdir, name, **choice)
  assert '\n' not in str(error.value)


def test_without_traces_the_command_that_makes_them_is_named(tmp_path):
  for name, flags in (('margin', '$'), ('saturation', ' --checkpoints=all')):
    command = rf'moejax trace --workdir={tmp_path}{flags}'
    with pytest.raises(errors.InputError, match=command):
      rows(str(tmp_path), name)
  assert analysing.measured(str(tmp_path)) == {}


def test_all_that_the_traces_allow(workdir, tmp_path):
  got = analysing.measured(workdir)
  of_traces = {
    name
    for name, measure in analysis.MEASURES.items()
    if measure.needs in ('one', 'several')
  }
  assert set(got) == of_traces
  assert got['change_rate'] == expected('change_rate', 10, 20)
  (tmp_path / 'traces' / '00000010.parquet').unlink()
  assert 'saturation' not in analysing.measured(workdir)


def test_a_table_shows_means_with_their_intervals():
  value = {
    'step 10': {
      'step': 10,
      'topk': 0.5,
      'topk_low': 0.4,
      'topk_high': 0.625,
      'top1': None,
      'top1_low': None,
      'top1_high': None,
      'load': [1, 2],
    }
  }
  assert measure_table.for_table('no workdir', 'saturation', value) == {
    'step 10': {'topk': '0.500 ±0.112', 'top1': None}
  }
