"""`evaluate --suite` where the model writes: samples, and programs that run."""

import json

import pytest
from helpers import programs, suite_runs

from moejax.cli import evaluate
from moejax.core import exits
from moejax.evals import sandbox, suite
from moejax.evals.sandbox import KINDS, Limits, Sandbox

NQ = [
  {'question': 'who wrote it', 'answer': ['Nobody']},
  {'question': 'where is it', 'answer': ['Here', 'There']},
]
# What the model writes stands in a text that nobody reads, so the test alone
# decides.
HUMANEVAL = [
  {
    'task_id': f'Made/{number}',
    'prompt': 'def same(x):\n  return x\nr"""',
    'canonical_solution': '',
    'test': f'"""\ndef check(f):\n  assert f(3) == {value}',
    'entry_point': 'same',
  }
  for number, value in enumerate([3, 4])
]
MBPP = [
  {
    'task_id': number,
    'text': 'Write a tree.',
    'code': 'x',
    'test_list': ['assert 1', 'assert 1', 'assert 1'],
    'test_setup_code': '',
    'challenge_test_list': [],
  }
  for number in (2, 3, 4)
]


@pytest.fixture(scope='module', autouse=True)
def _programs(tmp_path_factory):
  with programs.kept(tmp_path_factory.mktemp('compiled')):
    yield


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A workdir and a folder of rows."""
  folder = tmp_path_factory.mktemp('place')
  suite_runs.workdir(folder / 'a', 1)
  rows = folder / 'rows'
  suite_runs.write(rows, 'nq_open', NQ)
  suite_runs.write(rows, 'piqa', suite_runs.PIQA)
  suite_runs.write(rows, 'humaneval', HUMANEVAL)
  suite_runs.write(rows, 'mbpp', MBPP, splits=('test', 'prompt'))
  return folder


def _call(place, *flags):
  flags = [f'--workdir={place / "a"}', f'--data={place / "rows"}', *flags]
  return exits.call(evaluate.main, flags)


def _result(place, task):
  kept = place / 'a' / 'evals' / 'lm_eval' / f'step_{suite_runs.STEP}'
  return json.loads((kept / f'{task}.json').read_text())


@pytest.mark.soak
def test_samples_are_drawn_and_are_part_of_what_a_result_was_made_with(
  place, monkeypatch, capsys
):
  texts = []

  def judge(prompts, continuations, run=None):
    texts.append(continuations)
    return [{'exact_match': 0.0} for _ in prompts]

  monkeypatch.setattr(suite.judges, 'values', judge)
  greedy = ['--tasks=nq_open,piqa']
  drawn = [*greedy, '--samples=3', '--temperature=1.5', '--json']
  assert _call(place, *greedy) == exits.DONE
  assert _call(place, *drawn) == exits.DONE
  out, err = capsys.readouterr()
  assert 'nq_open.json was made with other samples, temperature;' in err
  # The options of piqa are given, so nothing about it has changed.
  assert 'piqa (2 of 2): done before' in err
  assert [*map(len, texts[0])] == [1, 1]
  assert [*map(len, texts[1])] == [3, 3]
  assert all(len({*of_prompt}) == 3 for of_prompt in texts[1])
  assert _result(place, 'nq_open')['made_with']['samples'] == 3
  assert _result(place, 'nq_open')['made_with']['temperature'] == 1.5
  assert _result(place, 'piqa')['made_with']['samples'] == 1
  both = json.loads(out[out.index('{') :])
  assert (both['samples'], both['temperature']) == (3, 1.5)
  # The same draws: the same texts.
  assert _call(place, *drawn) == exits.DONE
  assert len(texts) == 2
  (place / 'a' / 'evals' / 'lm_eval' / 'step_7' / 'nq_open.json').unlink()
  assert _call(place, *drawn) == exits.DONE
  assert texts[2] == texts[1]


def test_a_result_without_a_word_on_samples_was_greedy(place, capsys):
  assert _call(place, '--tasks=nq_open') == exits.DONE
  path = place / 'a' / 'evals' / 'lm_eval' / 'step_7' / 'nq_open.json'
  value = json.loads(path.read_text())
  for key in ('samples', 'temperature'):  # as earlier versions wrote it
    del value['made_with'][key], value['result'][key]
  path.write_text(json.dumps(value))
  capsys.readouterr()
  assert _call(place, '--tasks=nq_open') == exits.DONE
  assert 'done before' in capsys.readouterr().err
  value['made_with'] = None
  path.write_text(json.dumps(value))
  assert _call(place, '--tasks=nq_open') == exits.DONE
  assert 'nq_open.json is of another version' in capsys.readouterr().err


def test_programs_run_only_where_they_may(place, monkeypatch, capsys):
  assert _call(place, '--tasks=humaneval') == exits.BAD_INPUT
  line = capsys.readouterr().err.splitlines()[-1]
  assert '2 programs that the model wrote must run' in line
  assert '--run_generated_code' in line

  def find():
    return lambda programs: [judged(program) for program in programs]

  def judged(program):
    return 'f(3) == 3' in program

  monkeypatch.setattr(sandbox, 'find', find)
  flags = ['--tasks=humaneval', '--run_generated_code', '--temperature=2']
  assert _call(place, *flags, '--samples=10') == exits.DONE
  line = 'humaneval: 10 samples of each prompt at temperature 2; pass@10 50.0'
  assert line in capsys.readouterr().out
  values = _result(place, 'humaneval')['result']['values']
  assert values == {'pass@1': [1, 0], 'pass@10': [1, 0]}


@pytest.mark.soak
def test_programs_run_in_the_sandbox_of_this_machine(place, capsys):
  """The flag, rows of a folder, a model's text, a process, a score."""
  flags = ['--tasks=humaneval,mbpp', '--run_generated_code']
  works = any(Sandbox(kind, Limits()).run_one('').passed for kind in KINDS)
  code = _call(place, *flags)
  if not works:
    assert code == exits.BAD_INPUT
    assert 'because no sandbox works' in capsys.readouterr().err
    return
  assert code == exits.DONE
  assert _result(place, 'humaneval')['result']['values']['pass@1'] == [1, 0]
  # An untrained model writes no program.
  assert _result(place, 'mbpp')['result']['means']['pass@1'] == 0
  assert 'humaneval' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--tasks=nq_open', '--samples=2'], 'are equal texts: set a temperature'),
    (['--tasks=nq_open', '--samples=0'], '--samples=0 must be from 1 to 1000'),
    (['--tasks=nq_open', '--temperature=-1'], '--temperature=-1 must be 0 or'),
    (['--tasks=piqa', '--temperature=1'], 'has no effect: piqa compare given'),
  ],
)
def test_wrong_flags_are_one_line(flags, words, place, capsys):
  assert _call(place, *flags) == exits.BAD_INPUT
  out, err = capsys.readouterr()
  assert out == ''
  assert words in err.splitlines()[-1]


def test_samples_are_those_of_a_suite(place, capsys):
  flags = [f'--workdir={place / "a"}', '--samples=2']
  assert exits.call(evaluate.main, flags) == exits.BAD_INPUT
  assert '--samples=2 needs --suite' in capsys.readouterr().err
