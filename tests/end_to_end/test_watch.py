"""Watching a run that is really training: the page grows, and both end well."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
from helpers import own_text, processes, watch_command

from moejax.core import exits, log

LIMIT_S = 240
GROWTHS = 4  # times that the page is seen at a later step


def _training(text, workdir):
  """A run that is far from its end, and traces itself now and then."""
  flags = own_text.merged((
    *own_text.flags(text, workdir),
    '--config.train.steps=1000000',
    '--config.train.eval_every=20',
    '--config.train.checkpoint_every=20',
    '--config.report.trace_tokens=300',
  ))
  return subprocess.Popen(
    [sys.executable, '-m', 'moejax.main', *flags],
    cwd=own_text.ROOT,
    env={
      **processes.environment(1),
      'MOEJAX_CACHE': str(text.with_name('cache')),
    },
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def _seen(port):
  """The step of the page, and its parts; None before there is a step."""
  status, text = watch_command.get(port, '/parts.json')
  assert status == 200
  parts = json.loads(text)
  step = re.search(r'unfinished, at step (\d+)', parts['header']['html'])
  return (int(step[1]) if step else None), parts


@pytest.mark.soak
def test_the_page_grows_while_a_run_trains_and_both_stop_cleanly(tmp_path):
  text = own_text.write_stories(tmp_path / 'stories.jsonl')
  workdir = tmp_path / 'run'
  workdir.mkdir()
  with watch_command.started(workdir) as watch:
    port = watch_command.port_of(watch)
    assert 'Nothing to show yet' in watch_command.get(port, '/')[1]
    training = _training(text, workdir)
    try:
      steps, sections = [], []
      deadline = time.monotonic() + LIMIT_S
      # Until two checkpoints are traced, which saturation compares.
      while len(steps) < GROWTHS or 'section#stability' not in sections[-1]:
        assert training.poll() is None, training.communicate()
        assert time.monotonic() < deadline, steps
        step, parts = _seen(port)
        if step is not None and step not in steps:
          steps.append(step)
          sections.append(set(parts))
        time.sleep(0.1)
      assert steps == sorted(steps)
      # A section that was there stays.
      assert all(a <= b for a, b in zip(sections, sections[1:], strict=False))
      assert {'section#training', 'section#experts', 'section#together'} <= (
        sections[-1]
      )
      training.send_signal(signal.SIGTERM)
      _, err = training.communicate(timeout=LIMIT_S)
      assert training.returncode == exits.INTERRUPTED, err
    finally:
      training.kill()
    # What the run wrote last is on the page, and nobody else wrote.
    last = log.read(workdir / 'metrics.jsonl')[-1]['step']
    assert _seen(port)[0] == last
    assert not (workdir / 'analysis').exists()
    assert not (workdir / 'report.html').exists()
    watch.send_signal(signal.SIGINT)
    out, err = watch.communicate(timeout=60)
    assert (watch.returncode, out, err) == (exits.DONE, '', '')
