"""Sweeps whose runs are trained by a stand-in that takes no time.

Its programs are real processes; what a run does stands in `acts.json`.
"""

import contextlib
import io
import json
import math

from moejax.cli import sweep as sweep_cli
from moejax.core import exits
from moejax.run import compatibility
from moejax.sweep import pool, results

# Exit codes of a run one after the other (the last one for ever), its last
# words, and its loss at evaluations. Without an act the loss is smallest at a
# learning rate of 0.01: (log10(rate) + 2)^2, plus 1 at step 1 and a half at 2.
STAND_IN = """
import json, math, pathlib, select, sys
here = pathlib.Path(__file__).parent
flags = dict(flag.removeprefix('--').split('=', 1) for flag in sys.argv[1:])
folder = pathlib.Path(flags['workdir'])
act = json.loads((here / 'acts.json').read_text()).get(folder.name, {})
tries = here / f'{folder.name}.tries'
number = len(tries.read_text()) if tries.exists() else 0
tries.write_text('x' * (number + 1))
(here / f'{folder.name}.flags').write_text(json.dumps(flags))
codes = act.get('codes', [0])
code = codes[min(number, len(codes) - 1)]
rate = float(flags.get('config.opt.peak_lr', 0.01))
loss = act.get('loss', (math.log10(rate) + 2) ** 2)
metrics = folder / 'metrics.jsonl'
done = metrics.read_text().count('\\n') if metrics.exists() else 0
with metrics.open('a') as f:
  for step, more in list(enumerate((1, 0.5, 0), 1))[done:]:
    f.write(json.dumps({'step': step, 'eval/loss': loss + more}) + '\\n')
    f.flush()
    if act.get('waits') == step:
      # Until it is closed, and not for ever.
      assert select.select([sys.stdin], [], [], 20)[0]
      print('interrupted: as asked')
      sys.exit(75)
if code:
  print(act.get('words', 'error: so it is'))
  sys.exit(code)
domains = {'text': {'loss': loss, 'bits_per_byte': loss}}
report = {'steps': 3, 'domains': domains}
part = folder / 'report.part'
part.write_text(json.dumps(report))
part.rename(folder / 'report.json')
"""

SWEEP = """from moejax import sweep


def get_sweep():
  runs = sweep.run('configs/tiny.py:tiny', {'train.steps': 3})
  return sweep.seeds(runs, 4)
"""
NAMES = tuple(f'tiny-seed={seed}' for seed in range(4))


class Place:
  """A folder with a sweep file, its workdir, and the stand-in."""

  def __init__(self, folder, monkeypatch, text=SWEEP):
    self.folder, self.workdir = folder, folder / 'work'
    self.file = folder / 'mine.py'
    self.file.write_text(text)
    (folder / 'stand_in.py').write_text(STAND_IN)
    self.act()
    monkeypatch.setattr(pool, 'WORKER', (str(folder / 'stand_in.py'),))
    monkeypatch.setattr(pool, 'POLL_S', 0.01)
    # What the stand-in leaves has no config.
    monkeypatch.setattr(compatibility, 'finished', lambda *_: True)
    monkeypatch.setattr(
      results.Table, 'plot', lambda _, path: path.write_bytes(b'picture')
    )

  def act(self, **acts):
    """Says what the runs do, by their names."""
    (self.folder / 'acts.json').write_text(json.dumps(acts))

  def words(self):
    """The flags that name the sweep."""
    return [f'--sweep={self.file}', f'--workdir={self.workdir}']

  def call(self, *flags):
    """Exit code, and the lines of output and errors, of the command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      try:
        code = exits.call(sweep_cli.main, [*self.words(), *flags])
      except SystemExit as e:
        code = e.code
    return code, out.getvalue().splitlines(), err.getvalue().splitlines()

  def tries(self, name):
    """How often a run was started."""
    path = self.folder / f'{name}.tries'
    return len(path.read_text()) if path.exists() else 0

  def flags(self, name):
    """What a run was started with."""
    return json.loads((self.folder / f'{name}.flags').read_text())

  def results(self):
    """The results of all runs by name, as they were written."""
    text = (self.workdir / 'results.json').read_text()
    return {run['name']: run for run in json.loads(text)['runs']}


def loss_at(rate):
  """The loss of a run without an act."""
  return (math.log10(rate) + 2) ** 2
