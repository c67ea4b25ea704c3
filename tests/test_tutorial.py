"""The tutorial, block by block, as its reader does it: with fewer steps."""

import pathlib
import re

import pytest
from helpers import pages
from helpers import reader as reading

pytestmark = pytest.mark.soak
PAGE = pages.ROOT / 'docs' / 'tutorial.md'
# Fewer steps and rows than on the page.
SMALL = {
  '--config.train.steps=200': (
    '--config.train.steps=20 --config.opt.schedule.warmup=2'
  ),
  '--suite=offline': '--suite=offline --limit=4',
}
SMALL_FILES = {
  'race.py': {
    'c.train.steps = 300': 'c.train.steps = 24',
    'c.report.eval_batches = 8': 'c.report.eval_batches = 1',
  }
}
INSTALLS = ('pip ', 'python3 -m venv', '. .venv/bin/activate', 'cd moejax')
FOLDERS = ('mkdir ../lab', 'cd ../lab')
PROGRAMS = ('moejax ', 'python ', *INSTALLS, *FOLDERS)


def _form(line):
  """A line of output without what may differ on the reader's machine.

  That is numbers, spaces, lengths of rules and the type that the machine
  multiplies faster. Example: 'acc  0.52 ± 0.05, in 16 s' and 'acc 1.0 ± 0, in
  2 s' are both 'acc # ± #, in # s'.
  """
  line = re.sub(r'\b(?:bfloat16|float32)\b', 'TYPE', line)
  line = re.sub(r'\d[\d.,:%]*(?:e[-+]\d+)?(?<![,:])', '#', line)
  return ' '.join(re.sub(r'[-─]+', '-', line).split())


@pytest.fixture(scope='module')
def reader(tmp_path_factory):
  """A reader who has done the whole page; checks all quoted output."""
  reader = reading.Reader(tmp_path_factory.mktemp('tutorial'))
  for block in pages.blocks(PAGE):
    if block.file:
      changes = SMALL_FILES.get(block.file, {})
      assert all(large in block.text for large in changes)
      reader.write(block.file, reading.replaced(block.text, changes))
      continue
    commands = reading.commands(block, PROGRAMS)
    for command in commands:
      if not command.startswith((*INSTALLS, *FOLDERS)):
        reader.run(reading.replaced(command, SMALL))
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
