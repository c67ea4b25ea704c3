"""The commands of the README and of the how-tos, as their readers type them.

They run on small texts, for few steps, one page after the other in a folder of
its own. The tutorial has a test of its own, and so have the flags of the
commands of all other pages (shell/test_reference.py).
"""

import dataclasses
import gzip
import json
import pathlib
import re
import shutil

import numpy as np
import pyarrow
import pytest
from helpers import pages
from helpers import reader as reading

pytestmark = pytest.mark.soak
HOWTO = pages.ROOT / 'docs' / 'howto'
PAGES = [
  pages.ROOT / 'README.md',
  *(path for path in sorted(HOWTO.glob('*.md')) if path.stem != 'README'),
]
PROGRAMS = 'moejax ', 'python ', 'make ', 'sbatch ', 'tpu_scripts/'
# What does not run here, and what tests it.
ELSEWHERE = {
  'make ': 'CI itself',
  'moejax plan ': 'tests/plan, with the compilers of chips',
  'moejax doctor': 'tests/doctor; measures for half a minute',
  'moejax sweep --sweep=routers ': 'tests/sweep; trains for days',
  'python -m benchmarks.': 'tests/benchmarks; measures for minutes',
  'sbatch ': 'tests/tpu_scripts; needs a cluster',
  'tpu_scripts/': 'tests/tpu_scripts; needs a cluster',
}
# Of every training, unless the page sets the key.
FEW_STEPS = {
  'train.steps': '2',
  'opt.schedule.warmup': '1',
  'report.eval_batches': '1',
  'report.trace_tokens': '100',
}
SMALLER = {
  '/my/': 'my/',
  'path/of/a/checkpoint': 'checkpoint',
  ' FOLDER': ' checkpoint',
  '--tokens=20000': '--tokens=200',
  '--suite=offline': '--suite=offline --limit=2',
  '--size=8192': '--size=400',
  'train.profile.at=20': 'train.profile.at=2',
}
SMALLER_FILES = {
  "'train.steps': 300": "'train.steps': 2, 'opt.schedule.warmup': 1",
  "'report.eval_batches': 8": "'report.eval_batches': 1",
  '[1e-3, 3e-3]': '[1e-3]',
  'sweep.seeds(runs, 2)': 'sweep.seeds(runs, 1)',
}
LETTERS = 'abdefhiklmnorstuw'
PIQA = {'goal': 'Dry it', 'sol1': 'Wet.', 'sol2': 'Hang it up.', 'label': 1}


def smaller(command):
  """The command with fewer steps, and with paths of the current folder."""
  command = reading.replaced(command, SMALLER)
  if 'moejax train ' in command:
    command = re.sub(r'(--config\.train\.steps)=\d+', r'\1=8', command)
    for key, value in FEW_STEPS.items():
      if f'--config.{key}=' not in command:
        command += f' --config.{key}={value}'
  return command


@dataclasses.dataclass(frozen=True)
class Things:
  """What readers have before they begin.

  Attributes:
    texts: a folder with texts of every form that a page names.
    workdir: of a finished run of the demo.
    checkpoint: a Hugging Face folder with a tokenizer and a chat template.
  """

  texts: pathlib.Path
  workdir: pathlib.Path
  checkpoint: pathlib.Path


@pytest.fixture(scope='module')
def things(tmp_path_factory):
  folder = tmp_path_factory.mktemp('things')
  reader = reading.Reader(folder)
  made = Things(*(reader.folder / x for x in ('my', 'runs/tiny', 'checkpoint')))
  texts, web, rows = (made.texts / x for x in ('texts', 'web', 'benchmarks'))
  for path in (texts, web, rows / 'piqa'):
    path.mkdir(parents=True)
  rng = np.random.default_rng(0)
  words = [''.join(rng.choice([*LETTERS], n % 7 + 2)) for n in range(500)]
  for n in range(12):
    (texts / f'{n}.txt').write_text(' '.join(rng.choice(words, 900)))
  lines = ''.join(
    json.dumps({'text': path.read_text()}) + '\n' for path in texts.iterdir()
  )
  (texts / 'all.jsonl.gz').write_bytes(gzip.compress(lines.encode()))
  with pyarrow.CompressedOutputStream(web / 'a.jsonl.zst', 'zstd') as out:
    out.write(lines.encode())
  for split in ('validation', 'test'):
    (rows / 'piqa' / f'{split}.jsonl').write_text(json.dumps(PIQA))
  reader.run(smaller('moejax train --config=tiny --workdir=runs/tiny'))
  reader.run('moejax convert export --workdir=runs/tiny --to=checkpoint')
  (made.checkpoint / 'chat_template.jinja').write_text(
    '{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}'
  )
  return made


@pytest.mark.parametrize('path', PAGES, ids=lambda path: path.stem)
def test_the_commands_of_a_page_end_well(path, things, tmp_path):
  reader = reading.Reader(tmp_path)
  shutil.copytree(things.texts, reader.folder / 'my')
  shutil.copytree(things.checkpoint, reader.folder / 'checkpoint')
  if '--config=tiny --workdir=runs/tiny' not in path.read_text():
    shutil.copytree(things.workdir, reader.folder / 'runs' / 'tiny')
  for block in pages.blocks(path):
    if block.file:
      reader.write(block.file, reading.replaced(block.text, SMALLER_FILES))
    for command in reading.commands(block, PROGRAMS):
      if not command.startswith(tuple(ELSEWHERE)):
        reader.run(smaller(command))


def test_what_is_smaller_or_does_not_run_is_in_a_page():
  blocks = [block for path in PAGES for block in pages.blocks(path)]
  commands = [
    command for block in blocks for command in reading.commands(block, PROGRAMS)
  ]
  for large in SMALLER:
    assert any(large in command for command in commands), large
  for large in SMALLER_FILES:
    assert any(block.file and large in block.text for block in blocks), large
  for begin in ELSEWHERE:
    assert any(command.startswith(begin) for command in commands), begin
  runs = [one for one in commands if not one.startswith(tuple(ELSEWHERE))]
  assert len(runs) > 30
