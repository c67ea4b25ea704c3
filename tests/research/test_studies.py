"""From folders of runs to the pages of the studies, by reports made by hand."""

import json
import pathlib
import re
import sys

import pytest

from moejax.config import user_files
from moejax.core import config_tree, errors, files
from moejax.moe.dispatchers import dropless
from moejax.research import algorithms, figures, learning_rates, order, runs
from moejax.sweep import sweep_file
from moejax.sweep.sweep import Sweep

ROOT = pathlib.Path(__file__).parents[2]
SWEEPS = ROOT / 'configs' / 'sweeps'
STUDIES = user_files.load(str(SWEEPS / 'studies.py'), 'sweep')


def finish(folder, run, config, bits):
  """A finished run with these bits per byte."""
  workdir = folder / run.name
  workdir.mkdir(parents=True)
  domains = {'code': {'loss': 2 * bits, 'bits_per_byte': bits}}
  report = {'domains': domains, 'steps': config.train.steps}
  (workdir / 'report.json').write_text(json.dumps(report))
  files.atomic_write_json(workdir / 'config.json', config_tree.to_dict(config))
  records = [
    {'step': step, 'loss': 3.0, 'eval/loss': 4 * bits / step}
    for step in (100, 200)
  ]
  lines = ''.join(json.dumps(record) + '\n' for record in records)
  (workdir / 'metrics.jsonl').write_text(lines)


@pytest.fixture(scope='module')
def sweeps():
  return {
    name: Sweep(str(SWEEPS / f'{name}.py'), (), 'unused')
    for name in ('studies', 'studies_rates', 'studies_long', 'headline_h200')
  }


@pytest.fixture
def pages(tmp_path):
  """A copy of the pages, whose tables a test may fill."""
  for page in (ROOT / 'docs' / 'studies').glob('*.md'):
    (tmp_path / page.name).write_text(page.read_text())
  return tmp_path


def test_every_method_has_three_rates_and_three_seeds(sweeps):
  names = {run.name for run in sweeps['studies_rates'].runs}
  assert len(names) == 3 * len(STUDIES.METHODS)
  for method in STUDIES.METHODS:
    assert {
      f'{method}-peak_lr={rate}-seed=0' for rate in STUDIES.RATES
    } <= names
  chosen = [run for run in sweeps['studies'].runs]
  assert len(chosen) == 3 * len(STUDIES.METHODS)
  # Seed 0 is a run of the rates, with the same config to the last key.
  first = [run for run in chosen if run.name.endswith('-seed=0')]
  for run in first:
    assert run.name in names
    same = sweeps['studies_rates'].configs[run.name]
    assert sweeps['studies'].configs[run.name] == same


def test_all_methods_have_one_budget_and_the_followed_keep_their_weights(
  sweeps,
):
  for name, config in sweeps['studies'].configs.items():
    method = name.partition('-')[0]
    moe, train = config.model.moe, config.train
    assert (train.steps, train.batch_size) == (STUDIES.STEPS, 8)
    at = train.keep_checkpoints_at
    assert at == (STUDIES.KEPT if method in STUDIES.FOLLOWED else (0,))
    if method not in ('dense', 'moe_pp', 'tc_moe'):
      experts = moe.num_experts + moe.num_shared
      assert experts * moe.expert_width == 1536
      active = moe.router.experts_per_token + moe.num_shared
      assert active * moe.expert_width == 192
      assert isinstance(moe.dispatcher, dropless.Dropless)


def test_the_twins_of_deepseek_moe_start_with_gates_that_sum_to_one(sweeps):
  for name, config in sweeps['studies'].configs.items():
    if '_sum_1-' in name:
      router, moe = config.model.moe.router, config.model.moe
      total = router.k / moe.num_experts * router.scale
      assert total == pytest.approx(1)


def test_the_large_sweep_has_a_hundred_times_the_tokens(sweeps):
  tokens = lambda c: c.train.steps * c.train.batch_size * c.data.sequence_length
  small = next(iter(sweeps['studies'].configs.values()))
  for config in sweeps['headline_h200'].configs.values():
    assert tokens(config) == 100 * tokens(small)
  for config in sweeps['studies_long'].configs.values():
    assert tokens(config) == 6 * tokens(small)


def test_the_best_rate_is_chosen_where_all_are_there():
  bits = {
    'a': {0.001: 2.0, 0.003: 1.0, 0.01: 1.5},
    'b': {0.001: 2.0, 0.003: 2.0, 0.01: 3.0},
    'c': {0.003: 1.0},
  }
  best = learning_rates.choose(bits, 3)
  assert best == {'a': 0.003, 'b': 0.001}
  assert learning_rates.cells(bits, best) == [
    ['method', '0.001', '0.003', '0.01'],
    ['a', '2.000', '**1.000**', '1.500'],
    ['b', '**2.000**', '2.000', '3.000'],
    ['c', '-', '1.000', '-'],
  ]


def test_the_rates_are_written_where_the_sweep_reads_them(
  sweeps, pages, tmp_path
):
  copied = tmp_path / 'sweeps'
  copied.mkdir()
  for name in ('studies', 'studies_rates'):
    text = (SWEEPS / f'{name}.py').read_text()
    zoo = f"ZOO = '{SWEEPS.parent}/zoo.py'"
    text = re.sub('^ZOO = .*$', zoo, text, flags=re.MULTILINE)
    (copied / f'{name}.py').write_text(text)
  folder = tmp_path / 'runs'
  sweep = sweeps['studies_rates']
  for run in sweep.runs:
    rate = float(run.overrides['opt.peak_lr'])
    bits = 2 + abs(rate - 0.01)
    finish(folder, run, sweep.configs[run.name], bits)
  flags = [
    f'--sweep={copied / "studies_rates.py"}',
    f'--workdir={folder}',
    f'--out={pages}',
  ]
  learning_rates.main(flags)
  rates = user_files.load(str(copied / 'studies_best_rates.py'), 'sweep')
  best = rates.BEST_RATES
  assert best == dict.fromkeys(STUDIES.METHODS, 0.01)
  assert '| **2.000** |' in (pages / 'learning_rates.md').read_text()
  again = sweep_file.load(str(copied / 'studies.py'))
  assert {run.overrides['opt.peak_lr'] for run in again} == {'0.01'}


@pytest.fixture
def trained(sweeps, tmp_path):
  """All runs of the studies, finished; later methods are worse."""
  sweep = sweeps['studies']
  for run in sweep.runs:
    method = run.group.partition(runs.RATE_IN_NAME)[0]
    place = [*STUDIES.METHODS].index(method)
    bits = 2 + 0.1 * place + 0.01 * int(run.name[-1])
    finish(tmp_path / 'runs', run, sweep.configs[run.name], bits)
  return tmp_path / 'runs'


def test_study_1_has_the_order_and_the_twins(trained, pages):
  flags = [
    f'--sweep={SWEEPS / "studies.py"}',
    f'--workdir={trained}',
    f'--out={pages}',
  ]
  order.main(flags)
  text = (pages / 'order.md').read_text()
  # The paper's order is from dense down, so that all ten are the other way.
  assert 'Of 10 pairs 0 are in the order of the paper, 10 in the oppo' in text
  cells = lambda name: [
    [cell.strip() for cell in line.strip('| ').split('|')]
    for line in re.findall(rf'^\| {name} .*$', text, re.MULTILINE)
  ]
  assert cells('hash')[0] == ['hash', '1.932', '2.110 ± 0.010', '3', '0.003']
  # The page may have a row of sums of gates too.
  (twins,) = [row for row in cells('top_2') if row[1].startswith('gates not')]
  assert twins[-2:] == ['+0.100 ± 0.000', '3']
  assert cells('half_fine_sum_1')[0][:2] == ['half_fine_sum_1', '0.947']
  numbers = json.loads((pages / 'order.json').read_text())
  twin = numbers['gates']['top_2_small - top_2']
  assert twin['difference'] == pytest.approx(0.1)
  assert numbers['table_1']['pairs']['opposite'] == 10
  assert (pages / 'order.png').stat().st_size > 10_000


def test_study_4_says_which_pairs_differ(trained, pages):
  flags = [
    f'--sweep={SWEEPS / "studies.py"}',
    f'--workdir={trained}',
    f'--out={pages}',
  ]
  algorithms.main(flags)
  text = (pages / 'algorithms.md').read_text()
  assert '21 of 21' in text
  assert 'Pairs that differ: SMoE and XMoE, SMoE and σ-MoE, ' in text
  # 7 methods 0.6 apart with a deviation of 0.01 over seeds.
  assert '| < 0.0001 |' in text
  assert 'best to worst mean (SMoE to MoE++)' in text
  numbers = json.loads((pages / 'algorithms.json').read_text())
  assert numbers['libmoe_test']['spread'] == pytest.approx(0.01)
  assert len(numbers['libmoe']['smoe']) == 3


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
  with pytest.raises(errors.InputError, match=r"pip install 'moejax\[plot\]'"):
    figures.figure(1)


def test_without_finished_runs_it_says_how_to_train(tmp_path):
  with pytest.raises(errors.InputError, match='no run of .* is finished in'):
    runs.finished(str(SWEEPS / 'studies.py'), str(tmp_path))


def test_a_few_finished_runs_are_enough_for_a_page(sweeps, pages, tmp_path):
  sweep, folder = sweeps['studies'], tmp_path / 'few'
  for run in sweep.runs:
    if run.name.startswith('gshard-') and run.name.endswith('seed=0'):
      finish(folder, run, sweep.configs[run.name], 2.5)
  flags = [
    f'--sweep={SWEEPS / "studies.py"}',
    f'--workdir={folder}',
    f'--out={pages}',
  ]
  order.main(flags)
  text = (pages / 'order.md').read_text()
  assert '| gshard | 1.867 |           2.500 | 1 |     0.003 |' in text
  assert 'Of 0 pairs 0' in text
  assert 'No run that this table needs is finished.' in text


def test_a_page_without_a_place_for_a_table_is_said(trained, pages):
  (pages / 'algorithms.md').write_text('# Mine\n')
  flags = [
    f'--sweep={SWEEPS / "studies.py"}',
    f'--workdir={trained}',
    f'--out={pages}',
  ]
  with pytest.raises(errors.InputError, match='must have the lines'):
    algorithms.main(flags)
