"""What a sweep leaves in its workdir, with runs that take no time."""

import json

import pytest
from helpers import page_data, sweeping

from moejax import page as pages
from moejax.core import config_tree, exits
from moejax.page.markup import Html
from moejax.sweep import outputs
from moejax.sweep.sweep import Sweep

SWEEP = """from moejax import sweep


def get_sweep():
  runs = sweep.run('configs/tiny.py:tiny', {'train.steps': 3})
  runs = sweep.product(runs, {'opt.peak_lr': [0.01, 0.1]})
  return sweep.seeds(runs, 3)
"""
GOOD, BAD = 'tiny-peak_lr=0.01', 'tiny-peak_lr=0.1'


@pytest.fixture
def place(tmp_path, monkeypatch):
  place = sweeping.Place(tmp_path, monkeypatch, SWEEP)
  # Differences of 1.0, 1.1 and 1.2 between the two.
  losses = {GOOD: (2.0, 2.1, 2.0), BAD: (3.0, 3.2, 3.2)}
  place.act(**{
    f'{name}-seed={seed}': {'loss': loss}
    for name, group in losses.items()
    for seed, loss in enumerate(group)
  })
  return place


def test_the_pairs_stand_below_the_table_and_in_the_numbers(place):
  code, out, _ = place.call()
  assert code == exits.DONE
  text = (place.workdir / 'results.md').read_text()
  assert '1 of 1 pair of rows differs in bits/byte' in ' '.join(text.split())
  assert max(len(x) for x in text.splitlines() if '|' not in x) <= 80
  assert [line for line in out if f'{GOOD} - {BAD} |    -1.1000' in line]
  assert '3 seeds are few' in ' '.join(text.split())
  numbers = json.loads((place.workdir / 'results.json').read_text())
  (pair,) = numbers['pairs']
  assert (pair['num'], pair['flips']) == (3, 0.25)
  assert pair['difference'] == pytest.approx(-1.1)
  # sqrt(3) * 1.1 / 0.1 = 19.05 at 2 degrees of freedom.
  assert pair['p'] == pytest.approx(0.00274, abs=1e-5)
  code, out, _ = place.call('--table', f'--against={GOOD}')
  assert code == exits.DONE
  assert [line for line in out if f'{BAD} - {GOOD} |    +1.1000' in line]
  code, _, err = place.call('--table', '--against=tiny-peak_lr=0.02')
  assert code == exits.BAD_INPUT
  assert f"did you mean '{GOOD}'?" in err[0]


def test_a_document_has_the_first_table_alone(place, tmp_path):
  document = tmp_path / 'mine.md'
  place.call(f'--out={document}')
  text = document.read_text()
  assert GOOD in text
  assert 'pair' not in text


def test_the_page_begins_with_the_comparison(place, monkeypatch):
  place.act(**{f'{BAD}-seed=2': {'codes': [2], 'words': 'error: <b> | so'}})
  written = []
  monkeypatch.setattr(
    outputs.page, 'write_or_say', lambda *args: written.append(args)
  )
  place.call()
  assert written == []  # no run has left a config
  sweep = Sweep(str(place.file), (), str(place.workdir))
  for name in (f'{GOOD}-seed=0', f'{BAD}-seed=2'):
    text = json.dumps(config_tree.to_dict(sweep.configs[name]))
    (place.workdir / name / 'config.json').write_text(text)
  assert place.call('--table')[0] == exits.DONE
  ((workdirs, path, _, first),) = written
  assert len(workdirs) == 2
  assert path == place.workdir / 'report.html'
  ((name, title, html),) = first
  assert (name, title) == ('sweep', 'Sweep mine')
  assert 'pair of rows' in html
  assert 'data:image/png;base64,cGljdHVyZQ==' in html
  log = place.workdir / f'{BAD}-seed=2' / 'log.txt'
  assert f'<li>{BAD}-seed=2 failed: &lt;b&gt; | so ({log})</li>' in html
  assert '>note<' not in html


def test_a_page_of_several_runs_takes_sections_of_others():
  runs = [page_data.full(), page_data.full()]
  section = ('mine', 'My section', Html('<p>here it is</p>'))
  html = pages.comparison(runs, first=[section]).html
  assert html.index('here it is') < html.index('id="curves"')
  assert 'href="#mine"' in html
