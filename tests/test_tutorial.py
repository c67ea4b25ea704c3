"""The tutorial, block by block, as its reader does it: with fewer steps."""

import os
import pathlib
import re
import select
import signal
import subprocess
import sys

import pytest
from helpers import pages

pytestmark = pytest.mark.soak
PAGE = pages.ROOT / 'docs' / 'tutorial.md'
# Fewer steps and rows than on the page.
SMALL = (
  (
    '--config.train.steps=200',
    '--config.train.steps=20 --config.opt.schedule.warmup=2',
  ),
  ('--suite=offline', '--suite=offline --limit=4'),
)
SMALL_FILES = {
  'race.py': (
    ('c.train.steps = 300', 'c.train.steps = 24'),
    ('c.report.eval_batches = 8', 'c.report.eval_batches = 1'),
  )
}
INSTALLS = ('pip ', 'python3 -m venv', '. .venv/bin/activate', 'cd moejax')
FOLDERS = ('mkdir ../lab', 'cd ../lab')


def _commands(block):
  """The commands of a block; none of a block of output."""
  lines = block.text.replace('\\\n', ' ').splitlines()
  known = ('moejax ', 'python ', *INSTALLS, *FOLDERS)
  if block.kind or not lines[0].startswith(known):
    return []
  assert all(line.startswith(known) for line in lines), block
  return lines


def _form(line):
  """A line of output without what may differ on the reader's machine.

  That is numbers, spaces, lengths of rules and the type that the machine
  multiplies faster. Example: 'acc  0.52 ± 0.05, in 16 s' and 'acc 1.0 ± 0, in
  2 s' are both 'acc # ± #, in # s'.
  """
  line = re.sub(r'\b(?:bfloat16|float32)\b', 'TYPE', line)
  line = re.sub(r'\d[\d.,:%]*(?:e[-+]\d+)?(?<![,:])', '#', line)
  return ' '.join(re.sub(r'[-─]+', '-', line).split())


class Reader:
  """A reader in an empty folder, with moejax on the path."""

  def __init__(self, folder):
    self.folder, self.output = folder / 'lab', ''
    self.folder.mkdir()
    programs = folder / 'bin'
    programs.mkdir()
    for name, words in (('moejax', ' -m moejax'), ('python', '')):
      (programs / name).write_text(
        f'#!/bin/sh\nexec {sys.executable}{words} "$@"\n'
      )
      (programs / name).chmod(0o755)
    self.env = {
      **os.environ,
      'PATH': f'{programs}{os.pathsep}{os.environ["PATH"]}',
      'PYTHONPATH': str(pages.ROOT),
      'XLA_FLAGS': '',  # one device, as on a laptop
    }

  def write(self, name, text):
    """Writes a file of the page."""
    for large, small in SMALL_FILES.get(name, ()):
      assert large in text
      text = text.replace(large, small)
    (self.folder / name).write_text(text)

  def run(self, command):
    """Runs a command, which must end well, and keeps what it prints."""
    for large, small in SMALL:
      command = command.replace(large, small)
    if command.startswith('moejax watch'):
      self.output += self._watch(command)
      return
    done = subprocess.run(
      command, shell=True, cwd=self.folder, env=self.env,
      capture_output=True, text=True, check=False,
    )  # fmt: skip
    self.output += done.stdout + done.stderr
    assert done.returncode == 0, (command, self.output)

  def _watch(self, command):
    """The first line of a server, which Ctrl-C then ends."""
    with subprocess.Popen(
      f'exec {command} --port=0', shell=True, cwd=self.folder, env=self.env,
      stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
      ready, _, _ = select.select([server.stdout], [], [], 120)
      line = server.stdout.readline() if ready else ''
      server.send_signal(signal.SIGINT)
    assert server.returncode == 0
    return line


@pytest.fixture(scope='module')
def reader(tmp_path_factory):
  """A reader who has done the whole page; checks all quoted output."""
  reader = Reader(tmp_path_factory.mktemp('tutorial'))
  for block in pages.blocks(PAGE):
    if block.file:
      reader.write(block.file, block.text)
      continue
    commands = _commands(block)
    for command in commands:
      if not command.startswith((*INSTALLS, *FOLDERS)):
        reader.run(command)
    if not commands and not block.kind:  # output of this or an earlier command
      printed = {_form(line) for line in reader.output.splitlines()}
      quoted = [line for line in block.text.splitlines() if line.strip()]
      for line in quoted:
        assert _form(line) in printed, (block.line, line, reader.output)
  return reader


def test_the_whole_page_works_and_prints_what_it_quotes(reader):
  kept = reader.folder / 'runs' / 'compare' / 'lottery-seed=1'
  names = {path.name for path in pathlib.Path(kept).iterdir()}
  assert {'plugin', 'report.html', 'report.json', 'config.json'} <= names
  compared = reader.folder / 'runs' / 'compare'
  for name in ('results.md', 'results.png', 'report.html'):
    assert (compared / name).stat().st_size > 500


def test_its_model_is_opened_without_the_readers_files(reader):
  """After all the reader's own files are gone, from another folder."""
  for path in reader.folder.glob('*.py'):
    path.unlink()
  reader.output = ''
  workdir = reader.folder / 'runs' / 'compare' / 'lottery-seed=1'
  away = reader.folder / 'away'
  away.mkdir()
  reader.run(f'cd {away} && moejax generate --workdir={workdir} --prompt=In')
  assert 'tokens/s' in reader.output
