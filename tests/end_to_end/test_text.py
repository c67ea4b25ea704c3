"""A run on the user's own text: what it reports, and whose text it is."""

import collections
import json
import lzma
import math

import jax
import numpy as np
import pytest
from helpers import own_text

from moejax.core import exits
from moejax.evals.samples import PROMPTS
from moejax.run import restore

pytestmark = pytest.mark.slow  # the first waits for the run

EOS = 1  # of the bytes vocabulary, whose other ids are byte + 3


def test_the_report_has_what_it_promises(finished):
  found = own_text.report(finished.workdir)
  (row,) = found['domains'].values()
  for key in ('loss', 'perplexity', 'bits_per_byte', 'unigram', 'xz'):
    assert row[key] > 0
  assert 0 <= row['accuracy'] <= 1
  # One layer, of which the two most used of eight experts are named.
  ((first, second),) = found['experts']['files']
  assert first[0] != second[0]
  assert {first[0], second[0]} <= set(range(8))
  assert 1 >= first[1] >= second[1] > 0
  assert first[1] + second[1] <= 1 + 1e-6
  assert first[1] > 1 / 8
  samples = found['samples']
  assert [s['prompt'] for s in samples] == list(PROMPTS)
  assert len(samples) == 3
  for sample in samples:
    assert sample['text'].startswith(sample['prompt'])
    assert len(sample['text']) > len(sample['prompt'])


def test_its_figures_are_those_of_the_file(finished):
  (row,) = own_text.report(finished.workdir)['domains'].values()
  bodies, held_out = zip(*own_text.stories(), strict=True)
  num_bytes = len(''.join(held_out).encode())
  # Every byte is a token, and so is the end of each document.
  assert row['tokens'] == num_bytes + len(held_out)
  bits = row['loss'] * row['tokens'] / math.log(2) / num_bytes
  assert row['bits_per_byte'] == pytest.approx(bits, rel=1e-6)
  assert row['perplexity'] == pytest.approx(math.exp(row['loss']), rel=1e-6)

  count_V = np.ones(259)
  for text in bodies:
    np.add.at(count_V, [*(b + 3 for b in text.encode()), EOS], 1)
  target = collections.Counter()
  for text in held_out:
    target.update([*(b + 3 for b in text.encode()), EOS])
  bits_V = -np.log2(count_V / count_V.sum())
  unigram = sum(n * bits_V[i] for i, n in target.items()) / num_bytes
  assert row['unigram'] == pytest.approx(unigram, rel=1e-6)

  train, both = ''.join(bodies), ''.join([*bodies, *held_out])
  size = lambda text: len(lzma.compress(text.encode(), preset=9))
  xz = 8 * (size(both) - size(train)) / num_bytes
  assert row['xz'] == pytest.approx(xz)


def test_its_figures_are_printed(finished):
  (row,) = own_text.report(finished.workdir)['domains'].values()
  keys = ('bits_per_byte', 'unigram', 'xz')
  cells = [f'{row["loss"]:.3f}', f'{row["perplexity"]:.1f}']
  cells += [f'{row[key]:.3f}' for key in keys]
  table = _table(finished.out)
  assert ' '.join(table[0].split()) == (
    'validation loss perplexity bits/byte unigram xz -9'
  )
  assert table[1].split() == ['files', *cells]
  assert table[2].split() == ['mean', *cells]
  printed = '\n'.join(finished.out)
  experts = own_text.report(finished.workdir)['experts']
  (((expert, share), _),) = experts['files']
  assert f'{expert}:{share:.0%}' in printed
  for number, prompt in enumerate(PROMPTS, 1):
    assert f'Sample {number}, prompt {prompt!r}:\n  {prompt}' in printed
  assert f'The run is in {finished.workdir}' in printed
  assert '\nNext:\n' in printed


def test_again_it_says_that_it_is_finished_with_the_same_table(finished):
  before = (finished.workdir / 'metrics.jsonl').read_bytes()
  ended = own_text.call(*finished.flags)
  assert ended.code == exits.DONE
  assert ended.err == []
  assert ended.out[0] == (
    f'This run is finished: {finished.workdir} has all {own_text.STEPS} steps.'
  )
  assert _table(ended.out) == _table(finished.out)
  assert (finished.workdir / 'metrics.jsonl').read_bytes() == before


@pytest.mark.soak
def test_changed_text_is_refused_and_the_same_text_goes_on(
  finished, tmp_path, monkeypatch
):
  text = own_text.write_stories(tmp_path / 'mine.jsonl')
  workdir = tmp_path / 'run'
  flags = own_text.flags(text, workdir)
  with monkeypatch.context() as patch:
    own_text.stop_after(patch, 2)
    ended = own_text.call(*flags)
  assert ended.code == exits.INTERRUPTED
  (line,) = ended.err
  assert line.startswith('interrupted: SIGINT at step 2 of 6')
  before = (workdir / 'metrics.jsonl').read_bytes()

  whole = text.read_bytes()
  own_text.write(text, [b + last for b, last in own_text.stories()][:-1])
  ended = own_text.call(*flags)
  assert ended.code == exits.BAD_INPUT
  (line,) = ended.err
  assert line.startswith('error: the text of files/train, files/validation has')
  assert 'put the text back' in line
  assert (workdir / 'metrics.jsonl').read_bytes() == before

  # How often it is logged does not change what is trained, nor what the text
  # is called.
  text.unlink()
  (tmp_path / 'there').mkdir()
  (tmp_path / 'there' / 'moved.jsonl').write_bytes(whole)
  moved = own_text.flags(tmp_path / 'there', workdir)
  ended = own_text.call(*moved, '--config.train.log_every=2')
  assert (ended.code, ended.err) == (exits.DONE, [])
  (line,) = (line for line in ended.out if line.startswith('data.files ('))
  assert line.endswith('the rows are the same, and the run goes on with them.')
  assert 'Going on from the checkpoint of step 2.' in ended.out
  found = own_text.records(workdir)
  assert [r['step'] for r in found if 'loss' in r] == [1, 2, 4, 6]
  straight = own_text.records(finished.workdir)
  assert found == [r for r in straight if r in found]
  assert 'eval/files/loss' in found[-1]
  same = own_text.report(finished.workdir)
  assert own_text.report(workdir) == {**same, 'workdir': str(workdir)}
  kept = json.loads((workdir / 'config.json').read_text())
  assert kept['train']['log_every'] == 2
  _check_it_goes_on(moved, workdir, found)


def _check_it_goes_on(flags, workdir, before):
  """A run with all its steps takes more, with its optimiser's state."""
  longer = own_text.STEPS + 2
  more = f'--config.train.steps={longer}'
  ended = own_text.call(*flags, more, '--config.report.samples=false')
  assert (ended.code, ended.err) == (exits.DONE, [])
  out = ' '.join(ended.out)
  assert f'This run had all of its 6 steps; it goes on to {longer}' in out
  assert 'Going on from the checkpoint of step 6.' in out
  assert f'The run has {longer} steps now, 6 before' in out
  state = restore.state(str(workdir))
  assert int(state.step) == longer
  counts = [x for x in jax.tree.leaves(state.opt_state) if x.ndim == 0]
  assert {int(count) for count in counts} == {longer}
  assert own_text.report(workdir)['steps'] == longer
  assert own_text.records(workdir)[: len(before)] == before
  ended = own_text.call(*flags)
  assert ended.code == exits.BAD_INPUT
  assert 'train.steps=6, but the run in' in ended.err[0]


@pytest.mark.soak
def test_a_run_made_longer_is_the_run_that_was_long_from_the_start(
  finished, tmp_path
):
  """To the bit, where the schedule does not depend on the number of steps."""
  text = own_text.write_stories(tmp_path / 'mine.jsonl')

  def train(workdir, steps):
    ended = own_text.call(
      *own_text.flags(text, tmp_path / workdir),
      '--config.opt.schedule=constant',
      '--config.opt.schedule.warmup=2',
      '--config.report.eval_batches=1',
      '--config.report.samples=false',
      f'--config.train.steps={steps}',
    )
    assert (ended.code, ended.err) == (exits.DONE, [])
    return restore.state(str(tmp_path / workdir))

  train('longer', 4)
  longer, straight = train('longer', 6), train('straight', 6)
  assert int(longer.step) == 6
  for a, b in zip(*map(jax.tree.leaves, (longer, straight)), strict=True):
    np.testing.assert_array_equal(a, b)
  losses = [
    [r['loss'] for r in own_text.records(tmp_path / name) if 'loss' in r]
    for name in ('longer', 'straight')
  ]
  assert losses[0] == losses[1]
  assert len(losses[0]) == 6


def _table(lines):
  """The lines of the table of scores."""
  start = next(i for i, x in enumerate(lines) if x.startswith('validation '))
  return lines[start : start + 3]
