"""Bad input: one clear line, exit code 2, and nothing is lost or begun."""

import json
import pathlib

import pytest

from moejax import config, main
from moejax.core import config_tree, exits

ROOT = pathlib.Path(__file__).parents[2]
TINY = f'--config={ROOT}/configs/tiny.py:tiny'
SYNTHETIC = '--config.data.mixture=synthetic'


def _error(capsys, *flags, code=exits.BAD_INPUT):
  """The one line that a command with these flags fails with."""
  assert exits.call(main.main, flags) == code
  captured = capsys.readouterr()
  lines = captured.err.splitlines()
  assert len(lines) == 1, captured.err
  return lines[0]


CASES = {
  'unknown config file': (
    [f'--config={ROOT}/configs/tny.py'],
    ["did you mean 'tiny'"],
  ),
  'no config': ([], ['--config', 'required', '--help']),
  'unknown flag': ([TINY, '--wrkdir=x'], ['--wrkdir']),
  'unknown key': (
    [TINY, '--config.opt.peak_rl=1'],
    ["'opt.peak_rl'", "did you mean 'opt.peak_lr'"],
  ),
  'a group of keys': ([TINY, '--config.opt=1'], ["'opt'", 'set one of them']),
  'a key below a value': (
    [TINY, '--config.opt.peak_lr.x=1'],
    ["'opt.peak_lr.x'"],
  ),
  'override without a value': ([TINY, '--config.seed'], ['needs a value']),
  'wrong type': (
    [TINY, '--config.train.steps=many'],
    ["'train.steps' wants an int", "'many'"],
  ),
  'half a step': (
    [TINY, '--config.train.steps=1.5'],
    ["'train.steps' wants an int", "'1.5'"],
  ),
  'unknown router': (
    [TINY, '--config.model.moe.router=gshrd'],
    ["'gshrd'", "did you mean 'gshard'", 'top_k'],
  ),
  'unknown remat': (
    [TINY, '--config.model.remat=al'],
    ["'al'", 'full', 'none'],
  ),
  'top-k larger than the experts': (
    [TINY, '--config.model.moe.router.k=9'],
    ['error: model.moe.router.k=9', '8 routed experts', 'use at most 8'],
  ),
  'groups that do not divide the experts': (
    [TINY, '--config.model.moe.balance.device_level.num_groups=3'],
    ['num_groups=3', '8 routed experts'],
  ),
  'groups of experts that do not divide': (
    [
      TINY,
      '--config.model.moe.router=group_limited',
      '--config.model.moe.router.num_groups=3',
    ],
    ['num_groups=3', '8'],
  ),
  'top-k over the groups kept': (
    [
      TINY,
      '--config.model.moe.router=group_limited',
      '--config.model.moe.router.num_groups=4',
      '--config.model.moe.router.k=3',
    ],
    ['k=3', 'kept_groups=1'],
  ),
  'expert choice in a causal model': (
    [TINY, '--config.model.moe.router=expert_choice'],
    ['=expert_choice lets', 'later tokens', 'model.moe.router.not_causal=true'],
  ),
  'places by probability in a causal model': (
    [
      TINY,
      '--config.model.moe.dispatcher=capacity',
      '--config.model.moe.dispatcher.priority=probability',
    ],
    ['=capacity lets', 'later tokens', 'model.moe.dispatcher.not_causal=true'],
  ),
  'batch-prioritised places in a causal model': (
    [
      TINY,
      '--config.model.moe.dispatcher=capacity',
      '--config.model.moe.dispatcher.priority=batch_prioritised',
    ],
    ['=capacity lets', 'later tokens', 'model.moe.dispatcher.not_causal=true'],
  ),
  'Soft MoE in a causal model': (
    [TINY, '--config.model.feed_forward=soft_moe'],
    ['=soft_moe lets', 'later tokens', 'model.feed_forward.not_causal=true'],
  ),
  'a table of fewer ids than the model has': (
    [
      TINY,
      '--config.model.moe.router=balanced_hash',
      '--config.model.moe.router.vocab_size=100',
    ],
    ['model.moe.router.vocab_size=100', 'model.vocab_size=8192'],
  ),
  'experts as scorers of more than experts': (
    [
      TINY,
      '--config.model.moe.experts=autonomous_swiglu',
      '--config.model.moe.scorer=expert_norm',
      '--config.model.moe.zero_computation.copy=2',
    ],
    ['scores the 8 experts', 'wants 10'],
  ),
  'a balance loss of another router': (
    [TINY, SYNTHETIC, '--config.model.moe.balance.adaptive_l1=on'],
    ['balance.adaptive_l1', 'relu_TE'],
  ),
  'another number of choices without computation': (
    [TINY, '--config.model.moe.balance.weighted.num_zero=2'],
    ['balance.weighted.num_zero=2', 'zero_computation has 0'],
  ),
  'unknown expert_parallel': (
    [TINY, '--config.model.moe.expert_parallel=all2all'],
    ["'all2all'", "did you mean 'all_to_all'"],
  ),
  'sequence longer than the model': (
    [TINY, '--config.data.sequence_length=65'],
    ['data.sequence_length=65', 'model.max_length=64'],
  ),
  'vocabulary smaller than the ids': (
    [TINY, '--config.model.vocab_size=100'],
    ['model.vocab_size=100', '8192'],
  ),
  'heads that do not divide': (
    [TINY, '--config.model.num_kv_heads=3'],
    ['num_kv_heads=3', 'num_heads=4'],
  ),
  'batch that does not divide over the mesh': (
    [TINY, SYNTHETIC, '--config.train.batch_size=12'],
    ['12 rows', '8 parts'],
  ),
  'rows that do not divide over the context axis': (
    [
      TINY,
      SYNTHETIC,
      '--config.mesh.context=8',
      '--config.data.sequence_length=40',
    ],
    ['data.sequence_length=40', 'mesh.context=8', 'use 32 or 48'],
  ),
  'attention that cannot read pieces of rows': (
    [
      TINY,
      SYNTHETIC,
      '--config.mesh.context=8',
      '--config.model.attention=chunked',
    ],
    ['mesh.context=8', 'model.attention=chunked', 'model.attention=auto'],
  ),
  'stages that do not divide the layers': (
    [TINY, SYNTHETIC, '--config.mesh.stage=8'],
    ['mesh.stage=8 x model.pipeline.repeats=1', '2 layers', 'must be 2'],
  ),
  'microbatches of a pipeline that do not divide the rows': (
    [
      TINY,
      SYNTHETIC,
      '--config.mesh.stage=2',
      '--config.model.pipeline.microbatches=4',
    ],
    ['model.pipeline.microbatches=4', 'the 2 rows', 'use 2'],
  ),
  'fewer microbatches than stages': (
    [
      TINY,
      SYNTHETIC,
      '--config.mesh.stage=4',
      '--config.model.num_layers=4',
      '--config.model.pipeline.microbatches=2',
    ],
    ['model.pipeline.microbatches=2', 'mesh.stage=4; use 4'],
  ),
  'batch that does not divide into micro-batches': (
    [TINY, SYNTHETIC, '--config.train.micro_batches=3'],
    ['batch_size=8', 'micro_batches=3'],
  ),
  'mesh that does not fit the devices': (
    [TINY, SYNTHETIC, '--config.mesh.data=3'],
    ['data=3', '8 devices'],
  ),
  'expert axis that does not divide the experts': (
    [
      TINY,
      SYNTHETIC,
      '--config.mesh.expert=8',
      '--config.model.moe.num_experts=6',
    ],
    ['mesh.expert=8', 'does not divide', 'num_experts=6'],
  ),
  'weights that do not divide over the mesh': (
    [TINY, SYNTHETIC, '--config.mesh.fsdp=8', '--config.model.width=36'],
    ['embed=36', 'does not split 8 ways'],
  ),
  'no file': (
    [TINY, '--config.data.files=/no/such/*.jsonl'],
    ['/no/such/*.jsonl'],
  ),
  'no learning rate': ([TINY, '--config.opt.peak_lr=0'], ['opt.peak_lr=0']),
}


@pytest.mark.parametrize('case', sorted(CASES))
def test_one_line_that_names_value_place_and_fix(case, capsys, tmp_path):
  flags, words = CASES[case]
  workdir = tmp_path / 'run'
  line = _error(capsys, *flags, f'--workdir={workdir}')
  assert line.startswith('error: ')
  for word in words:
    assert word in line
  # Nothing was begun: what is wrong is said before any work.
  assert not (workdir / 'config.json').exists()


LLAMA = ROOT / 'tests' / 'golden' / 'hf' / 'llama'


@pytest.mark.parametrize(
  ('start', 'step', 'words'),
  [
    ('nowhere', 'newest', ['start=nowhere: ', 'there is no folder']),
    (str(ROOT), 'newest', [f'start={ROOT}: ', 'has no config.json']),
    (str(LLAMA), 'newest', [f'start={LLAMA} has model.']),
    (str(LLAMA), 'best', ['start_step=best is for the workdir of a run']),
    (str(LLAMA), 'oldest', ["start_step='oldest' must be newest, best or"]),
    ('', 'best', ['start_step=best', 'start, which is empty']),
  ],
)
def test_weights_that_a_run_cannot_begin_with_are_said_before_text_is_packed(
  start, step, words, capsys, tmp_path
):
  text = tmp_path / 'a.txt'
  text.write_text('text ' * 100)
  flags = [
    f'--config.data.files={text}',
    f'--config.data.cache_dir={tmp_path / "cache"}',
    f'--config.start_step={step}',
    *([f'--config.start={start}'] if start else []),
  ]
  line = _error(capsys, TINY, *flags, f'--workdir={tmp_path / "run"}')
  for word in words:
    assert word in line
  assert not list(tmp_path.glob('cache/*'))


def test_a_teacher_that_does_not_fit_is_said_before_text_is_packed(
  capsys, tmp_path
):
  text = tmp_path / 'a.txt'
  text.write_text('text ' * 100)
  flags = [
    f'--config.data.files={text}',
    f'--config.data.cache_dir={tmp_path / "cache"}',
    f'--config.train.distillation.teacher={LLAMA}',
  ]
  line = _error(capsys, TINY, *flags, f'--workdir={tmp_path / "run"}')
  assert f'train.distillation.teacher={LLAMA} predicts 64 ids, but' in line
  assert not list(tmp_path.glob('cache/*'))


def test_workdir_is_a_file(capsys, tmp_path):
  path = tmp_path / 'file'
  path.write_text('mine')
  line = _error(capsys, TINY, SYNTHETIC, f'--workdir={path}')
  assert str(path) in line
  assert path.read_text() == 'mine'


def test_workdir_of_another_config_names_the_keys(capsys, tmp_path):
  run = config.load(
    f'{ROOT}/configs/tiny.py:tiny', [('data.mixture', 'synthetic')]
  )
  text = json.dumps(config_tree.to_dict(run))
  (tmp_path / 'config.json').write_text(text)
  # Before the first checkpoint all may change.
  (tmp_path / 'checkpoints' / '00000005').mkdir(parents=True)
  line = _error(
    capsys, TINY, SYNTHETIC, '--config.opt.peak_lr=0.5', f'--workdir={tmp_path}'
  )
  assert 'opt.peak_lr (0.003 there, 0.5 now)' in line
  assert (tmp_path / 'config.json').read_text() == text


def test_workdir_whose_config_cannot_be_read(capsys, tmp_path):
  (tmp_path / 'config.json').write_text('{"seed": ')
  line = _error(capsys, TINY, SYNTHETIC, f'--workdir={tmp_path}')
  assert 'cannot be read' in line


def test_config_file_with_a_wrong_key_names_the_nearest(capsys, tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from moejax import config\n'
    'def get_config():\n'
    '  c = config.default()\n'
    '  c.opt.peak_rl = 1e-3\n'
    '  return c\n'
  )
  line = _error(capsys, f'--config={path}', f'--workdir={tmp_path / "run"}')
  assert str(path) in line
  assert 'peak_lr' in line
