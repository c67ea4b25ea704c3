"""`evaluate --suite`: from workdirs and a folder of rows to one table."""

import json
import shutil

import pytest
from helpers import hf, programs, suite_runs

from moejax.cli import convert, evaluate
from moejax.core import exits
from moejax.evals import suite
from moejax.evals.benchmarks import SUITES
from moejax.evals.engine import ModelEngine
from moejax.run import restore, suites

TASKS = '--tasks=piqa,lambada_openai'


@pytest.fixture(scope='module', autouse=True)
def _programs(tmp_path_factory):
  with programs.kept(tmp_path_factory.mktemp('compiled')):
    yield


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Two workdirs and a folder of rows."""
  folder = tmp_path_factory.mktemp('place')
  suite_runs.workdir(folder / 'a', 1)
  suite_runs.workdir(folder / 'b', 2)
  suite_runs.write(folder / 'rows', 'piqa', suite_runs.PIQA)
  suite_runs.write(folder / 'rows', 'lambada_openai', suite_runs.LAMBADA)
  return folder


def _call(place, *flags, workdirs=('a',)):
  flags = [
    *(f'--workdir={place / name}' for name in workdirs),
    f'--data={place / "rows"}',
    *flags,
  ]
  return exits.call(evaluate.main, flags)


def _no_engine(monkeypatch):
  def fail(*_, **__):
    raise AssertionError('scored')

  monkeypatch.setattr(suite, 'score', fail)


@pytest.mark.soak
def test_a_table_sets_runs_beside_each_other_and_beside_papers(place, capsys):
  flags = ['--suite=libmoe', TASKS, f'--out={place / "both.json"}']
  assert _call(place, *flags, workdirs=('a', 'b')) == exits.DONE
  out, err = capsys.readouterr()
  head, _, *rows = [line.split('|') for line in out.splitlines() if '|' in line]
  titles = [cell.strip() for cell in head]
  assert titles[5].endswith('a step 7')
  assert titles[6:8] == [f'{place / "b"} step 7', 'p']
  assert 'SMoE 158M †' in titles
  names = [row[1].strip() for row in rows]
  assert names == ['piqa', 'lambada_openai', 'mean']
  published = rows[0][titles.index('SMoE 158M †')].strip()
  assert published == '57.9'
  assert 'as published, not measured here: arXiv 2505.10860' in out
  # The question of 60 letters does not fit into 48 tokens.
  assert 'piqa, ' in out
  assert '2 texts were longer' in out
  assert 'piqa (1 of 2): 3 items' in err
  both = json.loads((place / 'both.json').read_text())
  assert [run['step'] for run in both['runs']] == [7, 7]
  assert both['runs'][0]['tasks']['piqa']['items'] == 3
  assert (place / 'both.md').read_text() == out


def test_finished_tasks_are_not_scored_twice(place, monkeypatch, capsys):
  flags = ['--suite=lm_eval', TASKS, '--json']
  kept = place / 'a' / 'evals' / 'lm_eval' / 'step_7'

  real, calls = suite.score, []

  def interrupted(task, *args):
    calls.append(task.name)
    if task.name == 'lambada_openai' and len(calls) == 2:
      raise KeyboardInterrupt
    return real(task, *args)

  monkeypatch.setattr(suite, 'score', interrupted)
  assert _call(place, *flags) == exits.INTERRUPTED
  assert [path.name for path in kept.iterdir()] == ['piqa.json']
  capsys.readouterr()
  assert _call(place, *flags) == exits.DONE
  assert calls == ['piqa', 'lambada_openai', 'lambada_openai']
  out, err = capsys.readouterr()
  assert 'piqa (1 of 2): done before' in err
  _no_engine(monkeypatch)
  assert _call(place, *flags) == exits.DONE
  assert json.loads(capsys.readouterr().out) == json.loads(out)


def test_other_prompts_or_settings_are_scored_anew(place, monkeypatch, capsys):
  flags = ['--suite=lm_eval', '--tasks=piqa', '--limit=2']
  assert _call(place, *flags) == exits.DONE
  _no_engine(monkeypatch)
  assert _call(place, *flags) == exits.DONE
  with pytest.raises(AssertionError, match='scored'):
    _call(place, *flags[:2], '--limit=1')
  assert 'made with other limit, prompts; it is made anew' in (
    capsys.readouterr().err
  )
  asked = [{**row, 'goal': '?'} for row in suite_runs.PIQA]
  suite_runs.write(place / 'rows', 'piqa', asked)
  try:
    with pytest.raises(AssertionError, match='scored'):
      _call(place, *flags)
    assert 'made with other prompts' in capsys.readouterr().err
  finally:
    suite_runs.write(place / 'rows', 'piqa', suite_runs.PIQA)


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--suite=libmo'], "unknown suite 'libmo'; did you mean 'libmoe'?"),
    (['--tasks=piqua'], "suite lm_eval 'piqua'; did you mean 'piqa'?"),
    (['--tasks=boolq'], "has no folder 'boolq'"),
    ([], 'needs --suite'),
    (['--suite=libmoe', '--published=smoe'], "did you mean 'smoe_"),
    (['--suite=lm_eval', '--published=smoe_158m'], 'no paper has printed'),
    (['--tasks=piqa', '--limit=0'], '--limit=0 must be 1 or more'),
    (['--tasks=piqa', '--step=8'], 'no checkpoint 8 in'),
    (['--tasks=piqa', '--step=8', '--out=x.md'], 'give --out another ending'),
    (
      [
        *('--tasks=piqa', '--config.model.vocab_size=8192'),
        '--config.data.vocab=sentencepiece',
      ],
      'data.vocab is another tokenizer than that of the run',
    ),
  ],
)
def test_wrong_flags_are_one_line(flags, words, place, capsys):
  assert _call(place, *flags) == exits.BAD_INPUT
  out, err = capsys.readouterr()
  assert out == ''
  assert words in err.splitlines()[-1]


def test_evaluations_are_of_one_run(place, capsys):
  workdirs = [f'--workdir={place / name}' for name in 'ab']
  assert exits.call(evaluate.main, workdirs) == exits.BAD_INPUT
  assert 'several --workdir need --suite' in capsys.readouterr().err
  flags = ['--tasks=piqa', f'--workdir={place / "a"}/']
  assert _call(place, *flags, workdirs='a') == exits.BAD_INPUT
  assert 'names a workdir twice' in capsys.readouterr().err


def test_an_option_longer_than_the_context_names_its_task(place, capsys):
  row = {'context': 'A', 'question': 'B', 'answerA': 'x' * 70, 'label': '1'}
  row |= {'answerB': 'y', 'answerC': 'z'}
  suite_runs.write(place / 'rows', 'social_iqa', [row])
  assert _call(place, '--tasks=social_iqa') == exits.BAD_INPUT
  line = capsys.readouterr().err.splitlines()[-1]
  assert line.startswith("error: social_iqa: the continuation ' xxxx")
  assert '71 tokens, but the model reads 48' in line


@pytest.mark.soak
def test_all_devices_equal_one(place, capsys):
  """Options and generated text, on eight devices with two axes."""
  rows = [{'question': 'who wrote it', 'answer': ['Nobody']}] * 3
  suite_runs.write(place / 'rows', 'nq_open', rows)
  flags = ['--suite=lm_eval', '--tasks=piqa,lambada_openai,nq_open', '--json']
  found = []
  for mesh in ([], ['--config.mesh.fsdp=2', '--config.mesh.data=-1']):
    shutil.rmtree(place / 'a' / 'evals', ignore_errors=True)
    assert _call(place, *flags, *mesh) == exits.DONE
    (run,) = json.loads(capsys.readouterr().out)['runs']
    found.append(run['tasks'])
  one, eight = found
  suite_runs.check_close(eight, one)


@pytest.mark.soak
def test_imported_models_and_runs_are_columns(place, capsys):
  """Two imported checkpoints beside a run, each with its own tokenizer."""
  for seed, name in ((3, 'olmoe'), (4, 'other')):
    hf.write_olmoe(place / f'{name}_hf', seed=seed)
    suite_runs.write_tokenizer(place / f'{name}_hf')
    flags = [str(place / f'{name}_hf'), f'--workdir={place / name}']
    convert.main(['import', *flags])
  capsys.readouterr()
  flags = ['--suite=lm_eval', TASKS]
  names = ['a', 'olmoe', 'other']
  assert _call(place, *flags, workdirs=names) == exits.DONE
  out = capsys.readouterr().out
  head = [cell.strip() for cell in out.splitlines()[0].split('|')]
  for name, step in zip(names, (suite_runs.STEP, 0, 0), strict=True):
    assert f'{place / name} step {step}' in head
  assert head.count('p') == 2
  # Their scores are those of the folders that were imported.
  request = suites.SuiteRequest(
    'lm_eval', ('lambada_openai',), str(place / 'rows')
  )
  (asked,) = suites.ask(request)
  found = []
  for name in names[1:]:
    _, model, weights = hf.read(place / f'{name}_hf')
    vocab = restore.run_of(str(place / name)).data.vocab
    wanted = suite.score(asked, ModelEngine(model, weights, vocab))
    path = place / name / 'evals/lm_eval/step_0/lambada_openai.json'
    found.append(json.loads(path.read_text())['result']['values'])
    assert found[-1] == wanted.values
  assert found[0]['nll'] != found[1]['nll']


@pytest.mark.soak
def test_the_rows_that_were_read_are_counted_by_configuration(place, capsys):
  row = {
    'task_id': 'x',
    'question': 'What is 1?',
    'choices': ['one', 'two'],
    'answer': 'A',
    'problem_description': 'Say it.',
  }
  names = SUITES['codemmlu']['letters'].dataset.configs
  for number, config in enumerate(names, 1):
    suite_runs.write(
      place / 'rows' / 'CodeMMLU', config, [row] * number, splits=('test',)
    )
  flags = ['--suite=codemmlu', '--tasks=letters_permuted', '--limit=1']
  assert _call(place, *flags) == exits.DONE
  err = capsys.readouterr().err
  counts = ', '.join(f'{i} {name}' for i, name in enumerate(names, 1))
  # Of the file: neither the limit nor the shifts change it.
  assert f'letters_permuted: 45 rows: {counts}' in err
