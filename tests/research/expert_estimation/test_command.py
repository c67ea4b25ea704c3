"""The command: its list, its results, resuming, and bad input."""

import functools
import json
import shutil

import pytest

from moejax.core import errors, exits
from moejax.research.expert_estimation import __main__ as command
from moejax.research.expert_estimation import maximum, results, trials
from moejax.research.expert_estimation.studies import STUDIES
from moejax.research.expert_estimation.theorems import THEOREMS
from moejax.research.expert_estimation.trials import Request

SMALL = [
  '--study=least_squares',
  '--case=linear',
  '--trials=2',
  '--sizes=40,120',
]


@pytest.fixture(scope='module', autouse=True)
def _short():
  """Optimisers with few iterations: what they find is tested elsewhere."""
  optimiser = maximum.Optimiser(iterations=20)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      command, 'Request', functools.partial(Request, optimiser=optimiser)
    )
    yield


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A finished small study of least squares, which needs no long programs."""
  folder = tmp_path_factory.mktemp('study')
  command.main([*SMALL, f'--out={folder}'])
  return folder


def test_the_results_have_slopes_shares_and_terms(folder):
  case = json.loads((folder / 'results.json').read_text())['cases']['linear']
  assert case['loss'] == 'L1'
  assert case['sizes'] == [40, 120]
  assert len(case['converged']) == len(case['failed']) == 2
  assert case['failed'] == [0, 0]
  series = case['series']
  assert series['loss']['slope']['low'] <= series['loss']['slope']['value']
  assert 'terms.routed.over.slope' in series
  assert 'errors.routed.over.expert_offset' in series
  parts = json.loads((folder / 'linear' / 'n=40.json').read_text())
  assert [row['trial'] for row in parts['rows']] == [0, 1]
  terms = [sum(row['terms'].values()) for row in parts['rows']]
  assert series['loss']['mean'][0] == pytest.approx(sum(terms) / 2)
  assert (folder / 'slopes.png').stat().st_size > 5000


def test_a_study_goes_on_from_the_parts_that_are_there(folder, monkeypatch):
  """A part that was deleted is computed again, to the same numbers."""
  part = folder / 'linear' / 'n=120.json'
  rows = json.loads(part.read_text())['rows']
  part.unlink()
  sizes = []
  run = trials.run

  def counted(case, name, size, *rest):
    sizes.append(size)
    return run(case, name, size, *rest)

  monkeypatch.setattr(trials, 'run', counted)
  command.main([*SMALL, f'--out={folder}'])
  assert sizes == [120]
  assert json.loads(part.read_text())['rows'] == rows


def test_another_request_leaves_the_folder_alone(folder, tmp_path):
  with pytest.raises(errors.InputError, match='with other seed: 0 there'):
    command.main([*SMALL, '--seed=1', f'--out={folder}'])
  (tmp_path / 'letter.txt').write_text('mine')
  with pytest.raises(errors.InputError, match="such as 'letter.txt'"):
    command.main([*SMALL, f'--out={tmp_path}'])
  assert [path.name for path in tmp_path.iterdir()] == ['letter.txt']


@pytest.mark.parametrize('name', ['request.json', 'linear/n=40.json'])
def test_a_damaged_file_is_one_line_and_stays(folder, name, tmp_path):
  shutil.copytree(folder, tmp_path / 'study')
  file = tmp_path / 'study' / name
  for damage in ('', '{"rows": [', '[]', 'null', file.read_text()[:50]):
    file.write_text(damage)
    with pytest.raises(errors.InputError, match='is damaged: .* delete') as one:
      command.main([*SMALL, f'--out={tmp_path}/study'])
    assert str(one.value).startswith(str(file))
    assert '\n' not in str(one.value)
    assert file.read_text() == damage


def test_a_failed_trial_is_named_and_counted(tmp_path, monkeypatch, capsys):
  describe = trials.describe

  def failing(case, trial, *rest):
    row = describe(case, trial, *rest)
    if trial.number == 1:
      row[trials.FAILED] = trials.NON_FINITE
    return row

  monkeypatch.setattr(trials, 'describe', failing)
  command.main([*SMALL, f'--out={tmp_path}'])
  said = capsys.readouterr()
  assert f'linear, n=40, trial 1: {trials.NON_FINITE}' in said.err
  case = json.loads((tmp_path / 'results.json').read_text())['cases']['linear']
  assert case['failed'] == [1, 1]


BAD = {
  '--study=deepsek': 'unknown study',
  '--study=deepseekmoe --case=sigmoid': "unknown case 'sigmoid'; did you mean",
  '--study=deepseekmoe --sizes=20,1000': r'--sizes=20 is too small: the fitted '
  'model has 5 atoms with .. free parameters',
  '--study=deepseekmoe --sizes=100,x': "'x' is not a whole number",
  '--study=deepseekmoe --sizes=1000,100': 'must ascend',
  '--study=deepseekmoe --trials=0': '--trials=0 must be from 1',
  '--study=deepseekmoe --largest_gate=0': '--largest_gate=0 must be from 0.1',
  '--study=deepseekmoe_sigmoid --gate=softmax': r'theorem 3 excludes the gate '
  "'softmax': it is about normalised_sigmoid_pinned",
  '--study=same_truth --gate=soft_max': "unknown gate 'soft_max'; did you mean",
  '--study=top_k --config.x=1': 'a study has no config',
  '--trials=3': '--study= is missing',
}


@pytest.mark.parametrize('flags', BAD)
def test_bad_input_is_one_line_before_any_work(flags, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(errors.InputError, match=BAD[flags]) as error:
    command.main(flags.split())
  assert '\n' not in str(error.value)
  assert not list(tmp_path.iterdir())
  assert exits.call(command.main, flags.split()) == exits.BAD_INPUT


def test_the_list_names_all_studies_and_cases(capsys):
  command.main(['--list'])
  said = capsys.readouterr().out
  for name, study in STUDIES.items():
    assert f'{name}: ' in said
    for case in study.cases:
      assert f'  {case} ' in said


def test_the_bound_on_gates_is_that_of_both_estimators():
  request = command.bounded(Request(), 6.0, 50.0)
  assert request.em.largest_gate == request.optimiser.largest_gate == 6
  assert request.optimiser.largest_expert == 50
  assert command.bounded(Request(), 30.0, 100.0) == Request()


def test_a_theorem_excludes_experts_too():
  case = STUDIES['deepseekmoe'].cases['softmax_linear']
  with pytest.raises(errors.InputError, match="excludes 'linear' experts"):
    THEOREMS['softmax_strong'].check(case.model)


def test_the_published_slopes():
  """arXiv 2505.10860, appendix G.1."""
  cases = STUDIES['deepseekmoe'].cases
  assert [case.published for case in cases.values()] == [
    0.451,
    0.517,
    0.46,
    0.552,
  ]
  assert [case.loss for case in cases.values()] == ['D1', 'D2', 'D3', 'D4']
  for case in cases.values():
    assert case.truth.model.num_shared == 1
    assert case.truth.model.num_routed == 2
    assert case.model.num_shared == 2
    assert case.model.num_routed == 3


def test_a_gate_that_keeps_too_few_experts_has_no_theorem():
  """Three atoms in two cells ask for a gate that keeps three."""
  cases = STUDIES['top_k'].cases
  assert not cases['keeps_2'].theorem
  assert THEOREMS[cases['keeps_3'].theorem].loss == cases['keeps_3'].loss
  with pytest.raises(errors.InputError, match="5 excludes the gate 'top_2'"):
    cases['keeps_3'].with_gate('top_2')


def test_cases_of_one_truth_share_their_samples():
  cases = STUDIES['same_truth'].cases
  keys = [results.truth_key(case) for case in cases.values()]
  assert len(set(keys)) == 2
