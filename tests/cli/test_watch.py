"""The watch command: its address, its end, and bad input."""

import json
import signal
import socket

import pytest
from helpers import watch_command

from moejax.cli import watch
from moejax.core import exits
from moejax.run import watching

ROWS = [{'step': step, 'loss': 5.0 - step} for step in (1, 2)]


@pytest.fixture
def workdir(tmp_path):
  """A run that is being written: its last line is half there."""
  lines = ''.join(json.dumps(row) + '\n' for row in ROWS)
  (tmp_path / 'metrics.jsonl').write_text(lines + '{"step": 3, "lo')
  return tmp_path


def stamps(folder):
  return {
    path: (status.st_size, status.st_mtime_ns)
    for path in [folder, *folder.rglob('*')]
    if (status := path.stat())
  }


@pytest.mark.soak
def test_it_reads_only_and_stops_cleanly(workdir):
  before = stamps(workdir)
  signals = signal.SIGINT, signal.SIGTERM
  with (
    watch_command.started(workdir) as first,
    watch_command.started(workdir) as second,
  ):
    for process, number in zip((first, second), signals, strict=True):
      port = watch_command.port_of(process)
      status, page = watch_command.get(port, '/')
      assert status == 200
      assert 'at step 2' in page
      assert watch_command.get(port, '/parts.json')[0] == 200
      process.send_signal(number)
      out, err = process.communicate(timeout=60)
      assert (process.returncode, out, err) == (exits.DONE, '', '')
  assert stamps(workdir) == before


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--workdir=/nowhere'], '--workdir=/nowhere: there is no such folder'),
    (['--workdir=.', '--port=70000'], '--port=70000 must be from 0 to 65535'),
    (['--workdir=.', '--config.seed=1'], '--config.seed changes nothing'),
    ([], '--workdir'),
  ],
)
def test_bad_input_is_one_line(flags, message, capsys):
  assert exits.call(watch.main, flags) == exits.BAD_INPUT
  out, err = capsys.readouterr()
  (line,) = err.splitlines()
  assert message in line
  assert not out


def test_a_port_that_is_taken_is_one_line(tmp_path, capsys):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
    flags = [f'--workdir={tmp_path}', f'--port={port}']
    assert exits.call(watch.main, flags) == exits.BAD_INPUT
  (line,) = capsys.readouterr().err.splitlines()
  assert f'--port={port} is taken' in line


def test_a_run_that_has_not_begun_has_a_page(tmp_path):
  live = watching.live_page([str(tmp_path)])
  assert 'Nothing to show yet' in live.html()
  (tmp_path / 'metrics.jsonl').write_text(json.dumps(ROWS[0]) + '\n')
  assert 'Nothing to show yet' not in live.html()
  assert 'at step 1' in live.html()
