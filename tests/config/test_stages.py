"""The list of stages in a config file, and the run of each."""

import pathlib

import pytest

from moejax.config import loading, stages
from moejax.core import errors

FILE = """
from moejax import config

STAGES = ({list})

def get_config(words):
  c = config.default()
  c.data.cache_dir = words
  c.train.steps = 7
  return c
"""


def write(folder, listed):
  path = folder / 'mine.py'
  path.write_text(FILE.format(list=listed))
  return str(path)


def test_a_stage_is_the_last_word_of_its_config(tmp_path):
  path = write(tmp_path, "config.Stage('a'), config.Stage('b', {'a': '*'})")
  first, second = stages.read(f'{path}:x/y')
  assert (first.sources, second.sources) == ([], ['a'])
  run = stages.load(f'{path}:x/y', second, [('train.steps', '3')], 'runs')
  assert (run.data.cache_dir, run.train.steps) == ('x/y,b', 3)
  assert stages.load(path, first, [], 'runs').data.cache_dir == 'a'


def test_a_run_of_no_stage_is_told_how_stages_are_trained(tmp_path):
  path = write(tmp_path, "config.Stage('a'), config.Stage('b')")
  with open(path, 'a') as file:
    file.write('  config.vary(c, {"a": {}, "b": {}}, words.split(",")[-1])\n')
    file.write('  return c\n')
  text = pathlib.Path(path).read_text()
  pathlib.Path(path).write_text(text.replace('  return c\n', '', 1))
  hint = rf'moejax stages --config={path}:x/y trains all .*={path}:x/y,a is'
  with pytest.raises(errors.InputError, match=f"variant 'x/y'.*{hint}"):
    loading.load(f'{path}:x/y')
  wrong = text.replace('return c', 'return d')
  pathlib.Path(path).write_text(wrong)
  with pytest.raises(errors.InputError) as caught:
    loading.load(f'{path}:x/y,b')
  assert 'moejax stages' not in str(caught.value)


@pytest.mark.parametrize(
  ('listed', 'message'),
  [
    ('', r'mine\.py has no STAGES: train it with moejax train'),
    ("'a',", r"STAGES has 'a', which is no config\.Stage"),
    ('3', 'STAGES is 3, and no tuple'),
    ("config.Stage('a'), config.Stage('b', 'a')", "starts='a', .* wants a na"),
    ("config.Stage('a'), config.Stage('b', {'a': 1})", "'a': 1}, .* wants a n"),
    ('config.Stage(7),', r'Stage\(name=7, .* wants a name, paths of weights'),
    ("config.Stage('a', upcycles=()),", r'upcycles=\(\)\) wants a name'),
    ("config.Stage('a/b'),", "stage 'a/b' names a folder"),
    ("config.Stage('tiny'),", "stage 'tiny' names a folder"),
    ("config.Stage('a'), config.Stage('a')", "two stages are called 'a'"),
    (
      "config.Stage('a'), config.Stage('b', {'c': '*'}), config.Stage('c')",
      "stage 'b' begins with 'c', which is no earlier stage; those are: a",
    ),
    (
      "config.Stage('a', upcycles='a'),",
      "stage 'a' begins with 'a', .* those are: none",
    ),
    (
      "config.Stage('a'), config.Stage('b', {'a': '*'}, upcycles='a')",
      "stage 'b' has starts and upcycles 'a': leave out one",
    ),
  ],
)
def test_stages_that_do_not_fit_are_refused(listed, message, tmp_path):
  with pytest.raises(errors.InputError, match=message):
    stages.read(write(tmp_path, listed))


def test_a_folder_of_runs_names_one_of_them(tmp_path):
  """Whoever gives the folder of all stages in place of that of one."""
  for name in ('sight', 'text', 'weights_elsewhere'):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'config.json').write_text('{}')
  for name in ('sight', 'text', 'no_config'):
    (tmp_path / name / 'checkpoints').mkdir(parents=True)
  (tmp_path / 'results.json').write_text('{}')
  with pytest.raises(errors.InputError) as caught:
    loading.of_workdir(str(tmp_path))
  assert str(caught.value) == (
    f'{tmp_path} is not the workdir of a run: it has no config.json; its '
    f'folders are, such as {tmp_path}/text'
  )


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('[]', '/config.json cannot be read ([] in place of config keys); use'),
    ('null', '/config.json cannot be read (None in place of config keys); use'),
    (
      '{"model_type": "qwen2_moe"}',
      ' is a Hugging Face folder, and no workdir; make one of it: '
      "moejax convert import '{}' --workdir=NEW",
    ),
  ],
)
def test_a_folder_with_another_config_is_one_line(tmp_path, text, words):
  folder = tmp_path / 'my model'
  folder.mkdir()
  (folder / 'config.json').write_text(text)
  with pytest.raises(errors.InputError) as caught:
    loading.of_workdir(str(folder))
  assert str(caught.value).startswith(f'{folder}{words.format(folder)}')


@pytest.mark.parametrize(
  ('spec', 'line'),
  [
    ('vision/drawn', "unknown stage ''; known are: connector"),
    ('vision/drawn:x', "unknown stage 'x'; known are: connector"),
    ('vision/drawn:text', 'ValueError: no folder of scenes is named: moejax'),
    ('vision/libmoe_stages:x', "unknown stage 'x'; known are: connector"),
    ('vision/libmoe_stages:experts', 'no folder with weights is named: put it'),
    ('hf/continue', 'no folder with weights is named: put it behind'),
    ('hf/chat', 'no folder with weights is named: put it behind'),
  ],
)
def test_a_shipped_config_says_which_word_is_missing(spec, line):
  with pytest.raises(errors.InputError, match=rf'\.py:\d+: {line}'):
    loading.load(spec)
