"""What `:tiny` does to a run, and what stands behind the colon otherwise."""

import pathlib

import pytest

from moejax import config
from moejax.core import config_tree, errors

ROOT = pathlib.Path(__file__).parents[2]
DS = f'{ROOT}/configs/ds_2b.py:tiny'
OWN = ('data.files', '/my/text.txt')


def test_tiny_keeps_the_kind_of_model_and_reads_text_that_is_here():
  run = config.load(DS)
  assert run.data.mixture == 'minipile'
  assert run.data.max_documents == 20
  assert run.model.moe.num_experts == 8
  assert run.model.moe.num_shared == 1
  assert run.model.moe.router.k == 2
  assert run.opt.schedule.factor == 0.316


@pytest.mark.parametrize('limit', [0, 1000])
def test_the_report_of_a_tiny_run_is_of_few_batches(limit):
  """All validation text would take longer than the run itself."""
  full = config.load(
    f'{ROOT}/configs/tiny.py', [('report.eval_batches', str(limit))]
  )
  assert full.report.eval_batches == limit
  short = config.shrink(full)
  assert 0 < short.report.eval_batches < 10
  whole = [('report.eval_batches', '0')]
  assert config.load(DS, whole).report.eval_batches == 0


def test_tiny_keeps_no_weights_of_steps_that_it_does_not_have():
  later = [('train.keep_checkpoints_at', '0,900')]
  run = config.shrink(config.load(f'{ROOT}/configs/ds_2b.py', later))
  run.check()
  assert run.train.keep_checkpoints_at == ()


def test_tiny_reads_no_sources_of_the_config_file():
  run = config.load(DS, [('data.sources.web.task', 'c4')])
  assert [source.name for source in run.data.sources] == ['web']
  data = config.shrink(run).data
  assert (data.sources, data.mixture) == ((), 'minipile')


def test_tiny_takes_own_text_whole_unless_told_otherwise():
  assert config.load(DS, [OWN]).data.max_documents == 0
  source = ('data.sources.web.files', '/my/text.txt')
  assert config.load(DS, [source]).data.max_documents == 0
  some = [('data.max_documents', '3'), OWN]
  assert config.load(DS, some).data.max_documents == 3


VARIANTS = {
  'plain': {},
  'wide': {'model.width': 512, 'opt.schedule': {'name': 'constant'}},
}


def test_vary_sets_the_keys_of_one_entry_by_their_paths():
  c = config.vary(config.default(), VARIANTS, 'wide')
  run = config_tree.from_config_dict(config.Run, c)
  assert config_tree.differences(config.Run(), run).keys() >= {
    'model.width',
    'opt.schedule.name',
  }
  assert run.model.width == 512


def test_vary_takes_the_first_entry_where_none_is_named():
  c = config.vary(config.default(), VARIANTS, '')
  assert config_tree.from_config_dict(config.Run, c) == config.Run()


def test_vary_names_the_nearest_entry_and_a_wrong_key_is_found():
  with pytest.raises(errors.InputError, match="did you mean 'wide'"):
    config.vary(config.default(), VARIANTS, 'wider')
  wrong = {'a': {'model.widht': 1}}
  c = config.vary(config.default(), wrong, 'a')
  with pytest.raises(errors.InputError, match="did you mean 'model.width'"):
    config_tree.from_config_dict(config.Run, c)


def test_a_config_is_found_beside_another_from_any_folder(
  tmp_path, monkeypatch
):
  (tmp_path / 'base.py').write_text(
    'from moejax import config\n'
    'def get_config(arg):\n'
    '  c = config.default()\n'
    '  c.model.width = int(arg)\n'
    '  return c\n'
  )
  (tmp_path / 'other.py').write_text(
    'from moejax import config\n'
    'def get_config():\n'
    '  return config.beside(__file__, "base.py:96")\n'
  )
  assert config.load(str(tmp_path / 'other.py')).model.width == 96
  monkeypatch.chdir(tmp_path)
  assert config.load('other.py').model.width == 96


def test_a_run_shorter_than_its_warm_up_is_refused():
  schedule = [('opt.schedule.warmup', '21'), ('opt.schedule', 'constant')]
  with pytest.raises(errors.InputError) as error:
    config.load(DS, schedule)
  assert str(error.value).startswith(
    'opt.schedule.warmup=21 is longer than the run, train.steps=20; lower it'
  )
  run = config.load(DS, [*schedule, ('train.steps', '21')])
  assert run.opt.schedule.warmup == 21
  # Of itself a shrunk run may have any number of steps.
  for steps in (1, 3):
    config.load(DS, [('train.steps', str(steps))])


def test_a_field_of_no_files_is_refused():
  flag = ('data.text_field', 'body')
  with pytest.raises(errors.InputError, match="data.text_field='body' is the"):
    config.load(DS, [flag])
  run = config.load(DS, [flag, ('data.files', 'tests')])
  assert run.data.text_field == 'body'
