"""With what a run may go on, and what is said about it."""

import contextlib
import dataclasses
import json
import types

import pytest
from etils import epath

from moejax import config
from moejax.cli import sweep as sweep_cli
from moejax.config import kept_tokenizer
from moejax.core import config_tree, errors, files, resume
from moejax.data.config import DataConfig
from moejax.data.vocab import SHIPPED, Bytes, SentencePiece
from moejax.run import compatibility, report, restore
from moejax.run import train as runs
from moejax.sweep import outputs, pool

RUN = config.Run(data=DataConfig(mixture='synthetic', vocab=Bytes()))


def changed(*overrides):
  """`RUN` with other values of some keys."""
  run = RUN
  for key, text in overrides:
    run = config_tree.override(run, key, text)
  return run


# Keys that another result may come of or not, one for each reason there is.
ALLOWED = {
  resume.ROUNDING: {
    'train.micro_batches': '4',
    'model.remat': 'full',
    'model.token_chunks': '2',
    'model.attention': 'xla',
    'model.quantization': 'int8',
    'model.pipeline.repeats': '2',
    'model.pipeline.microbatches': '4',
    'model.context_parallel': 'ring',
    'model.scan_unroll': '2',
    'model.moe.grouped_matmul': 'blocked',
    'model.moe.expert_parallel': 'all_gather',
    'mesh.fsdp': '2',
  },
  resume.NOTHING: {
    'evals.suite': 'offline',
    'evals.tasks': 'offline_cloze',
    'evals.every': '7',
    'evals.limit': '7',
    'evals.data': '/rows',
    'report.samples': 'false',
    'report.eval_batches': '3',
    'plugin': 'my.py',
    'report.suite': 'offline',
    'report.page': 'false',
    'report.trace_tokens': '0',
    'data.cache_dir': '/elsewhere',
    'train.log_every': '7',
    'train.load_every': '7',
    'train.checkpoint_every': '7',
    'train.keep_checkpoints': '7',
    'train.keep_checkpoints_at': '1,2',
    'train.keep_checkpoints_every': '7',
    'train.save_best': 'false',
    'train.eval_every': '7',
    'train.eval_batches': '7',
    'train.max_bad_steps': '7',
    'train.peak_tflops': '7',
    'train.local_checkpoints': '/near',
    'train.local_checkpoint_every': '7',
    'train.watchdog_s': '7',
    'train.watchdog_exits': 'true',
    'train.compile_cache': 'none',
    'train.profile.at': '9',
    'train.profile.steps': '9',
  },
  resume.BEGINNING: {'start': 'runs/other', 'start_step': 'best'},
  resume.TEXT: {
    'data.files': 'a.txt',
    'data.conversations': 'a.jsonl',
    'data.chat.template': 'vicuna',
    'data.chat.loss': 'last_answer',
    'data.validation_files': 'b.txt',
    'data.validation_fraction': '0.1',
    'data.text_field': 'body',
    'data.bad_lines': 'skip',
    'data.max_documents': '9',
    'data.packing': 'best_fit',
    'data.step_order': 'length',
    'data.images.folder': 'pictures',
    'data.images.tokens': '9',
    'data.images.token': '<picture>',
    'data.images.features': 'features',
    'data.images.read.max_pixels': '999',
    'data.images.read.background': '0,0,0',
    'data.images.read.upright': 'false',
    'data.images.prepare.pad_square': 'true',
    'data.images.prepare.size': '8,8',
    'data.images.prepare.resample': 'bilinear',
    'data.images.prepare.crop': '8,8',
    'data.images.prepare.scale': '1',
    'data.images.prepare.mean': '0,0,0',
    'data.images.prepare.std': '1,1,1',
  },
  resume.TEACHER: {
    'train.distillation.teacher': 'runs/full',
    'train.distillation.teacher_step': '7',
  },
  resume.LENGTH: {'train.steps': '2000'},
}


def test_every_key_is_compared_unless_it_is_listed_here():
  known = {key: effect for effect, keys in ALLOWED.items() for key in keys}
  for key in config_tree.flatten(RUN):
    group = next((k for k in known if key == k or key.startswith(k + '.')), key)
    group = 'mesh.fsdp' if key.startswith('mesh.') else group
    effect = resume.CHOSEN if key == 'model.dtype' else resume.RESULT
    assert resume.effect_of(RUN, key) == known.get(group, effect), key


@pytest.mark.parametrize('effect', sorted(ALLOWED))
def test_what_changes_no_result_is_no_other_run(effect):
  for key, text in ALLOWED[effect].items():
    run = changed((key, text))
    restore.check_same(run, RUN, 'there')
    found = {e: keys for e, keys in resume.changes(RUN, run).items() if keys}
    assert [*found] == [effect], key


@pytest.mark.parametrize(
  ('key', 'text', 'values'),
  [
    ('opt.peak_lr', '0.5', '(0.001 there, 0.5 now)'),
    ('model.dtype', 'bfloat16', "('float32' there, 'bfloat16' now)"),
    ('train.batch_size', '16', '(8 there, 16 now)'),
    ('train.skip_spikes.name', 'deviations', "('never' there, 'deviations'"),
  ],
)
def test_another_result_names_the_key_and_both_values(key, text, values):
  with pytest.raises(errors.InputError) as e:
    restore.check_same(changed((key, text)), RUN, 'runs/x')
  line = str(e.value)
  assert line.startswith('runs/x belongs to a run of another config: ')
  assert f'{key} {values}' in line


def test_expert_parallelism_that_drops_is_not_taken_for_rounding():
  drops = changed(
    ('model.moe.expert_parallel', 'all_to_all'),
    ('model.moe.expert_parallel.overflow', 'drop'),
  )
  with pytest.raises(errors.InputError, match='expert_parallel.overflow'):
    restore.check_same(drops, RUN, 'there')


@pytest.mark.parametrize('kept', ['float32', 'bfloat16'])
def test_auto_is_what_was_chosen_when_the_run_began(kept):
  old = changed(('model.dtype', kept))
  restore.check_same(changed(('model.dtype', 'auto')), old, 'there')


class Rows:
  """Data of one split, known by a name and by its rows."""

  def __init__(self, name, contents):
    reader = types.SimpleNamespace(fingerprint=name, contents=contents)
    task = types.SimpleNamespace(splits=('train',))
    self.domains = {'files': types.SimpleNamespace(train=reader, task=task)}


def check(run, data, *, old=RUN, before=None, step=10):
  """The lines that are said."""
  said = []
  extra = json.loads(json.dumps(compatibility.extra_of(old, before or data)))
  compatibility.check_checkpoint(run, data, step, extra, said.append)
  return said


def test_a_text_is_its_rows_whatever_it_is_called():
  before, moved = Rows('files-1', 'abc'), Rows('files-2', 'abc')
  run = changed(('data.files', '/new/*.txt'))
  (line,) = check(run, moved, before=before)
  assert line == (
    "data.files ('' before, '/new/*.txt' now): the rows are the same, and the "
    'run goes on with them.'
  )
  assert check(RUN, before, before=before) == []
  with pytest.raises(
    errors.InputError, match='^the text of files/train has ch'
  ):
    check(run, Rows('files-2', 'abd'), before=before)
  other = Rows('files-1', 'abc')
  other.domains = {'code': other.domains['files']}
  with pytest.raises(errors.InputError, match='code/train, files/train has'):
    check(run, other, before=before)


def test_a_checkpoint_that_knows_its_cache_alone_asks_the_cache(monkeypatch):
  """As those of earlier versions do."""
  extra = compatibility.extra_of(RUN, Rows('files-1', 'abc'))
  del extra['rows']
  rows = {'files-1': 'abc'}
  monkeypatch.setattr(
    compatibility.data_build, 'contents_of', lambda _, name: rows.get(name)
  )
  moved = Rows('files-2', 'abc')
  compatibility.check_checkpoint(RUN, moved, 1, extra, print)
  rows.clear()  # that cache was removed
  with pytest.raises(errors.InputError, match='the text of files/train has ch'):
    compatibility.check_checkpoint(RUN, moved, 1, extra, print)


def test_rounding_and_what_is_not_used_are_said():
  data = Rows('a', 'b')
  run = changed(('train.micro_batches', '4'), ('start', 'x'), ('seed', '0'))
  assert check(run, data) == [
    'Going on with train.micro_batches (1 before, 4 now): the same result but '
    'for rounding.',
    "start ('' at the beginning, 'x' now): not used, the run has begun "
    'already.',
  ]
  assert check(changed(('report.samples', 'false')), data) == []


def test_more_steps_say_what_the_schedule_makes_of_them():
  old = changed(
    ('train.steps', '20'),
    ('opt.schedule', 'cosine'),
    ('opt.schedule.warmup', '0'),
    ('opt.peak_lr', '1.0'),
  )
  run = config_tree.override(old, 'train.steps', '30')
  data = Rows('a', 'b')
  # Half a cosine from 1 to 0.1: 0.1 + 0.9 (1 + cos(pi s / S)) / 2, at 19 of 20
  # and at 20 of 30.
  assert check(run, data, old=old, step=20) == [
    'The run has 30 steps now, 20 before, and opt.schedule=cosine depends on '
    'that: from here the learning rate is that of a run of 30 steps, 0.325 at '
    'step 21 after 0.106 at step 20.'
  ]
  flat = [('opt.schedule', 'constant'), ('opt.schedule.warmup', '5')]
  old = changed(('train.steps', '20'), *flat)
  run = config_tree.override(old, 'train.steps', '30')
  assert check(run, data, old=old, step=20) == [
    'The run has 30 steps now, 20 before; its learning rates stay as they were.'
  ]


def test_fewer_steps_than_were_taken_are_refused():
  data = Rows('a', 'b')
  check(changed(('train.steps', '10')), data, step=10)
  with pytest.raises(errors.InputError) as e:
    check(changed(('train.steps', '9')), data, step=10)
  assert str(e.value) == (
    'train.steps=9, but the run has taken 10 steps already: set train.steps=10 '
    'or more, or use another --workdir'
  )


def write(folder, run, *steps):
  files.atomic_write_json(
    epath.Path(folder) / restore.CONFIG, config_tree.to_dict(run)
  )
  for step in steps:
    (folder / restore.CHECKPOINTS / f'{step:08d}').mkdir(parents=True)


def test_before_the_first_checkpoint_everything_may_change(tmp_path):
  write(tmp_path, RUN)
  (tmp_path / restore.CHECKPOINTS / '00000010.part').mkdir(parents=True)
  smaller = changed(('model.width', '64'), ('train.log_every', '3'))
  compatibility.check_workdir(smaller, tmp_path)
  said = []
  compatibility.say_begun_anew(smaller, epath.Path(tmp_path), said.append)
  assert said == [
    f'{tmp_path} has no checkpoint yet, so the run begins anew with '
    'model.width (256 before, 64 now).'
  ]
  compatibility.say_begun_anew(RUN, epath.Path(tmp_path), said.append)
  assert len(said) == 1
  write(tmp_path, RUN, 10)
  with pytest.raises(errors.InputError, match='of another config: model.width'):
    compatibility.check_workdir(smaller, tmp_path)


def test_a_finished_run_is_finished_until_more_is_wanted(tmp_path):
  said = []
  write(tmp_path, RUN)
  finished = lambda run: compatibility.finished(
    run, epath.Path(tmp_path), said.append
  )
  assert finished(RUN)
  assert finished(changed(('train.log_every', '3')))
  assert said == []
  assert not finished(changed(('train.steps', '1001')))
  assert not finished(changed(('report.eval_batches', '3')))
  assert said == [
    'This run had all of its 1000 steps; it goes on to 1001, and the report is '
    'made anew.',
    'The report is made anew: report.* has changed.',
  ]
  # Another text is compared first: what is there may be the report of another.
  assert not finished(changed(('data.files', '/other/*.txt')))
  assert said[2:] == [
    "data.files ('' before, '/other/*.txt' now): the rows are compared, to see "
    'whether the text is the same.'
  ]
  assert finished(changed(('start', '/other')))
  assert said[3:] == [
    "start ('' at the beginning, '/other' now): not used, the run has begun "
    'already.'
  ]
  with pytest.raises(
    errors.InputError, match='train.steps=999, but the run in'
  ):
    finished(changed(('train.steps', '999')))


def test_a_finished_run_is_of_its_config_without_its_checkpoints_too(tmp_path):
  write(tmp_path, RUN)
  report.write({'steps': 1000}, epath.Path(tmp_path))
  compatibility.check_workdir(changed(('train.log_every', '3')), tmp_path)
  with pytest.raises(errors.InputError, match='of another config: model.width'):
    compatibility.check_workdir(changed(('model.width', '64')), tmp_path)


def test_a_report_stays_until_the_run_really_goes_on(tmp_path, monkeypatch):
  folder = epath.Path(tmp_path)
  found = {'steps': 1000, 'workdir': str(folder)}
  write(tmp_path, RUN, 1000)
  report.write(found, folder)

  def context(*_):
    raise errors.InputError('the text is gone')

  monkeypatch.setattr(runs, '_context', context)
  with pytest.raises(errors.InputError, match='the text is gone'):
    runs.train(changed(('train.steps', '1001')), str(tmp_path))
  assert report.read(folder) == found


SWEEP = """
from moejax import sweep
get_sweep = lambda: sweep.run('configs/tiny.py:tiny')
"""


def test_a_sweep_trains_or_refuses_what_its_table_would_be_wrong_about(
  tmp_path, monkeypatch, capsys
):
  path, folder = tmp_path / 'mine.py', tmp_path / 'runs'
  path.write_text(SWEEP)
  jobs = []
  monkeypatch.setattr(
    pool, 'run', lambda work, *_: jobs.extend(iter(work.take, None))
  )
  monkeypatch.setattr(outputs, 'write', lambda *_: '')

  def train(*flags):
    jobs.clear()
    sweep_cli.main([f'--sweep={path}', f'--workdir={folder}', *flags])
    return [job.name for job in jobs]

  run = config.load('configs/tiny.py:tiny')
  (folder / 'tiny').mkdir(parents=True)
  write(folder / 'tiny', run, 20)
  report.write(
    {'steps': 20, 'domains': {'a': {'loss': 1.0, 'bits_per_byte': 1.0}}},
    epath.Path(folder / 'tiny'),
  )
  assert train() == []
  # A report of other batches is not what the caption says.
  assert train('--config.report.eval_batches=7') == ['tiny']
  for flag, words in (
    ('--config.data.files=/other/*.txt', "data.files ('' there"),
    ('--config.train.steps=10', 'train.steps (20 there, 10 now)'),
  ):
    with pytest.raises(errors.InputError) as e:
      train(flag)
    assert words in str(e.value)

  def listed(*flags):
    capsys.readouterr()
    train('--list', *flags)
    return capsys.readouterr().out.splitlines()

  assert listed()[-1].startswith('1 of 1 finished')
  for key, text, state in (
    ('report.eval_batches', '7', 'trained; its report is made anew'),
    ('opt.peak_lr', '0.5', 'another config: opt.peak_lr (0.003 there, 0.5 now'),
  ):
    line, total = listed(f'--config.{key}={text}')
    assert line.startswith(f'tiny  {state}')
    assert total.startswith('0 of 1 finished')


def test_a_marked_key_keeps_what_it_was():
  """Its bounds, its table, its default."""
  with pytest.raises(errors.InputError, match='micro_batches'):
    changed(('train.micro_batches', '0'))
  with pytest.raises(errors.InputError, match='expert_parallel'):
    changed(('model.moe.expert_parallel', 'rung'))
  assert dataclasses.replace(RUN.train) == type(RUN.train)()


def test_a_run_that_is_refused_keeps_no_tokenizer(tmp_path, monkeypatch):
  """Workdirs of earlier versions have no copy; its file may have changed."""
  tokenizer = tmp_path / 'mine.model'
  tokenizer.write_bytes(SHIPPED.read_bytes())
  data = DataConfig(mixture='synthetic', vocab=SentencePiece(str(tokenizer)))
  run = dataclasses.replace(RUN, data=data)
  folder = epath.Path(tmp_path / 'run')
  folder.mkdir()
  write(folder, run, 10)

  def refused(*_):
    raise errors.InputError('the text has changed')

  monkeypatch.setattr(runs.first_lines, 'say', lambda *_: None)
  monkeypatch.setattr(
    runs, 'open_resources', lambda *_: contextlib.nullcontext()
  )
  monkeypatch.setattr(runs, '_start', refused)
  context = types.SimpleNamespace(run=run, processes=runs.ALONE)
  with pytest.raises(errors.InputError, match='the text has changed'):
    runs._train_the_rest(context, folder, types.SimpleNamespace(line=print), 0)
  assert not (folder / kept_tokenizer.OWN).exists()
