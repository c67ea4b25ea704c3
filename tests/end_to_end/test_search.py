"""A search that truly trains: it prunes a bad run, is killed, and goes on."""

import json
import signal
import subprocess
import sys
import time

import pytest
from helpers import own_text

from moejax.core import exits, log

STEPS, EVERY = 400, 10
# Of the rates, the second trains nothing. With this seed the first run has the
# first rate, and the second the other.
SEARCH = """from moejax import sweep


def get_sweep():
  run = sweep.run('{config}', dict({overrides}), 'rate')
  rates = sweep.choice([0.01, 1e-9])
  return sweep.search(
    run, {{'opt.peak_lr': rates}}, num=2, pruner='halving', seed={seed}
  )
"""
SEED = 2


def _start(flags, **more):
  return subprocess.Popen(
    [sys.executable, '-m', 'moejax.cli.sweep', *flags],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **more,
  )


@pytest.mark.soak
def test_a_search_prunes_a_bad_run_and_goes_on_after_a_kill(finished, tmp_path):
  config, *flags = own_text.FLAGS
  pairs = dict(flag.removeprefix('--config.').split('=', 1) for flag in flags)
  pairs |= {
    'data.files': str(finished.text),
    'train.steps': STEPS,
    'train.eval_every': EVERY,
    'train.checkpoint_every': STEPS,
    'report.eval_batches': 1,
    'report.samples': False,
    'report.page': False,
  }
  path, workdir = tmp_path / 'mine.py', tmp_path / 'work'
  config = config.removeprefix('--config=')
  text = SEARCH.format(config=config, overrides=[*pairs.items()], seed=SEED)
  path.write_text(text)
  words = [f'--sweep={path}', f'--workdir={workdir}']

  # Killed while the first run trains, which then saves its state.
  killed = _start(words)
  metrics = workdir / 'rate-trial=0' / 'metrics.jsonl'
  deadline = time.monotonic() + 200
  while not metrics.exists() or len(log.read(metrics)) < 2 * EVERY:
    assert killed.poll() is None, killed.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.05)
  killed.send_signal(signal.SIGKILL)
  killed.communicate()
  checkpoints = workdir / 'rate-trial=0' / 'checkpoints'
  while not (checkpoints.exists() and any(checkpoints.iterdir())):
    assert time.monotonic() < deadline
    time.sleep(0.05)

  ended = _start(words)
  out, err = ended.communicate(timeout=400)
  assert ended.returncode == exits.DONE, (out, err)
  results = json.loads((workdir / 'results.json').read_text())
  runs = {run['name']: run for run in results['runs']}
  good, bad = runs['rate-trial=0'], runs['rate-trial=1']
  assert good['status'] == 'finished'
  said = (workdir / 'rate-trial=0' / 'log.txt').read_text()
  assert 'Going on from the checkpoint of step' in said
  assert bad['status'] == 'pruned'
  assert f'rate-trial=1: {bad["status"]} at step' in out
  folder = workdir / 'rate-trial=1'
  assert not (folder / 'report.json').exists()
  seen = log.read(folder / 'metrics.jsonl')
  last = seen[-1]['step']
  assert EVERY <= last < STEPS
  losses = [
    min(r['eval/loss'] for r in lines if 'eval/loss' in r)
    for lines in (log.read(metrics), seen)
  ]
  assert losses[0] < losses[1]
  # Its state was saved at the step where it was stopped.
  assert any((folder / 'checkpoints').glob(f'*{last}*'))
  assert '0.01' in (workdir / 'results.md').read_text()
  # Nothing is left to do.
  again = _start(words)
  out, _ = again.communicate(timeout=100)
  assert again.returncode == exits.DONE
  assert '2 of them finished before' in out
