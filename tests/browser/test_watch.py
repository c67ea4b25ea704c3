"""The live page in a real browser, served by the real command."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys

import pytest
from helpers import own_text

pytestmark = pytest.mark.browser

ADDRESS = re.compile(r'http://127\.0\.0\.1:\d+/')
# A renewal is at most this long after a change, in milliseconds.
RENEWED_MS = 30_000


def stamps(folder):
  """Sizes and times of all files and folders."""
  return {
    str(path.relative_to(folder)): (status.st_size, status.st_mtime_ns)
    for path in sorted(folder.rglob('*'))
    if (status := path.stat())
  }


@contextlib.contextmanager
def watched(*workdirs):
  """The command on some workdirs; yields its address."""
  command = [sys.executable, '-m', 'moejax.cli.watch', '--port=0']
  process = subprocess.Popen(
    [*command, *(f'--workdir={workdir}' for workdir in workdirs)],
    cwd=own_text.ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    yield ADDRESS.search(process.stdout.readline())[0]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    assert process.stdout.read() == ''
  finally:
    process.kill()
    process.wait()


@pytest.fixture
def unfinished(runs, tmp_path):
  """A copy of a run that has not come to its end."""
  folder = tmp_path / 'run'
  shutil.copytree(runs['first'], folder)
  (folder / 'report.json').unlink()
  return folder


def cut(workdir, rows):
  """Leaves the first rows of metrics.jsonl; returns the others."""
  path = workdir / 'metrics.jsonl'
  lines = path.read_text().splitlines(keepends=True)
  path.write_text(''.join(lines[:rows]))
  return lines[rows:]


def append(workdir, text):
  with (workdir / 'metrics.jsonl').open('a') as f:
    f.write(text)


def wait_for_step(page, line):
  """Waits until the page shows the step of a line of metrics.jsonl."""
  text = f'at step {json.loads(line)["step"]:,} '
  page.get_by_text(text).first.wait_for(timeout=RENEWED_MS)


def test_the_page_renews_itself_and_keeps_what_the_reader_chose(
  visit, unfinished
):
  left = cut(unfinished, 4)
  before = stamps(unfinished)
  with watched(unfinished) as address:
    opened = visit(address, offline=False)
    page = opened.page
    opened.drawn()
    page.get_by_text('unfinished').first.wait_for()
    opened.picture('watch-before')
    # What a page that is loaded anew would forget.
    page.evaluate('window.sameDocument = true')
    details = page.locator('section#training details').first
    details.locator('summary').click()
    menu = page.locator('figure.plot input[type=range]').first
    menu.focus()
    page.keyboard.press('Home')
    chosen = menu.get_attribute('aria-valuetext')
    page.evaluate('window.scrollTo(0, 700)')
    place = page.evaluate('window.scrollY')
    assert stamps(unfinished) == before

    # A line of which half is written is no line yet.
    append(unfinished, left[0][:20])
    page.get_by_text('renewed').wait_for()
    append(unfinished, left[0][20:])
    wait_for_step(page, left[0])
    page.wait_for_timeout(500)
    assert page.evaluate('window.sameDocument')
    assert details.get_attribute('open') is not None
    assert menu.get_attribute('aria-valuetext') == chosen
    assert menu.evaluate('x => x === document.activeElement')
    assert abs(page.evaluate('window.scrollY') - place) < 100
    opened.drawn()
    opened.picture('watch-after')

    # And again.
    append(unfinished, left[1])
    wait_for_step(page, left[1])
    assert opened.problems == []
    assert opened.network(('http://127.0.0.1:', 'data:', 'blob:')) == []
  assert {
    name for name, stamp in stamps(unfinished).items() if before[name] != stamp
  } == {'metrics.jsonl'}


def test_zoom_and_hidden_curves_stay(visit, unfinished):
  left = cut(unfinished, 4)
  figure = 'section#training figure.plot .canvas'
  with watched(unfinished) as address:
    opened = visit(address, offline=False)
    opened.drawn()
    change = """async (canvas) => {
      await Plotly.restyle(canvas, {visible: 'legendonly'}, [0]);
      await Plotly.relayout(canvas, {'xaxis.range': [1, 2]});
    }"""
    opened.page.eval_on_selector(figure, change)
    append(unfinished, left[0])
    wait_for_step(opened.page, left[0])
    opened.page.wait_for_timeout(500)
    shown = """(canvas) => [[...canvas._fullLayout.xaxis.range],
      canvas.data.map((trace) => trace.visible)]"""
    range_, visible = opened.page.eval_on_selector(figure, shown)
    assert range_ == [1, 2]
    assert visible[0] == 'legendonly'
    assert set(visible[1:]) <= {None, True}
    # A plot that the reader has left alone shows the new step.
    newest = """plots.find((plot) => plot.element.id === 'load-map')
      .figure.frames.at(-1).frame"""
    step = json.loads(left[0])['step']
    assert opened.page.evaluate(newest) == f'{step:,}'
    assert opened.problems == []


def test_a_run_that_has_not_begun_appears_when_it_does(visit, runs, tmp_path):
  with watched(tmp_path) as address:
    opened = visit(address, offline=False)
    opened.page.get_by_text('Nothing to show yet').wait_for()
    for name in ('config.json', 'metrics.jsonl'):
      shutil.copy(runs['first'] / name, tmp_path / name)
    opened.page.locator('section#training').wait_for(timeout=RENEWED_MS)
    assert opened.drawn() >= 2
    sections = opened.page.eval_on_selector_all(
      'main > section', 'all => all.map((x) => `#${x.id}`)'
    )
    links = opened.page.eval_on_selector_all(
      'nav a', "all => all.map((x) => x.getAttribute('href'))"
    )
    assert [s for s in sections if s != '#left-out'] == links
    assert opened.problems == []


def test_two_runs_are_compared_live(visit, runs):
  with watched(runs['first'], runs['second']) as address:
    opened = visit(address, offline=False)
    assert opened.drawn() >= 1
    assert opened.problems == []


def test_a_server_that_has_gone_is_said(visit, unfinished):
  with watched(unfinished) as address:
    opened = visit(address, offline=False)
    opened.drawn()
  opened.page.get_by_text('does not answer').wait_for(timeout=RENEWED_MS)


def test_the_shown_figures_are_those_of_the_records(visit, unfinished):
  rows = [
    json.loads(line)
    for line in (unfinished / 'metrics.jsonl').read_text().splitlines()
  ]
  with watched(unfinished) as address:
    opened = visit(address, offline=False)
    opened.drawn()
    curves = opened.page.evaluate('plots.map((p) => p.shown.curves || [])')
  losses = [row['loss'] for row in rows if 'loss' in row]
  assert any(
    curve['y'] == pytest.approx(losses, rel=1e-4)
    for figure in curves
    for curve in figure
    if len(curve['y']) == len(losses)
  )
