"""What a sweep writes in its workdir: tables, numbers, a picture and a page."""

import base64
import importlib.util
import pathlib
import shutil

from etils import epath

from moejax.core import files, terminal
from moejax.page import markup
from moejax.page.markup import Html
from moejax.run import page, report, restore
from moejax.sweep import comparison, results
from moejax.sweep.sweep import Sweep

PICTURE = 'results.png'


def write(
  sweep: Sweep, out: pathlib.Path | None = None, against: str | None = None
) -> str:
  """Writes all that compares the runs; returns the tables as text.

  Args:
    sweep: the sweep.
    out: a Markdown document that gets the first table and the picture too.
    against: name of the row to which the tests compare the others alone.

  Raises:
    InputError: there is no such row.
  """
  runs = [sweep.result(run) for run in sweep.runs]
  shown, picture = results.Table(runs), sweep.folder / PICTURE
  compared = comparison.Comparison(runs, shown.score, against)
  numbers = {
    'sweep': sweep.path,
    'rows': shown.rows,
    'pairs': compared.numbers(),
    'runs': runs,
  }
  files.atomic_write_json(sweep.folder / 'results.json', numbers)
  text = f'{shown.markdown()}\n{shown.caption([*sweep.configs.values()])}'
  more = compared.markdown()
  if sweep.search is not None:
    more = results.searched(runs, sweep.runs, sweep.search.space)
  unfinished = results.unfinished(runs, sweep.folder)
  everything = text + more + unfinished
  files.atomic_write_text(sweep.folder / 'results.md', everything)
  plotted = importlib.util.find_spec('matplotlib') is not None
  if plotted:
    shown.plot(picture)
  _write_page(sweep, _section(sweep, shown, compared, runs))
  if out:
    image = f'\n![{sweep.name}]({sweep.name}.png)\n' if plotted else ''
    document = results.in_document(out, sweep.name, text + image)
    files.atomic_write_text(out, document)
    if plotted:
      shutil.copyfile(picture, out.with_name(f'{sweep.name}.png'))
  if not plotted:
    everything += (
      "No picture: matplotlib is missing; pip install 'moejax[plot]'.\n"
    )
  return everything


def _section(
  sweep: Sweep,
  shown: results.Table,
  compared: comparison.Comparison,
  runs: list[results.Result],
) -> Html:
  """The first section of the page: rows, tests, and what is not finished."""
  caption = shown.caption([*sweep.configs.values()])
  head, rows = shown.cells()
  if head[-1] == results.NOTE:  # below, where long lines are broken
    head, rows = head[:-1], [row[:-1] for row in rows]
  parts = [markup.table(head, rows, ' '.join(caption.split()))]
  parts += [_picture(sweep.folder / PICTURE)]
  if sweep.search is None:
    parts.append(compared.html())
  else:
    table = results.searched_cells(runs, sweep.runs, sweep.search.space)
    if len(table) > 1:
      what = 'The values that the search chose, best first.'
      parts.append(markup.table(table[0], table[1:], what))
  unfinished = results.unfinished_cells(runs, sweep.folder)
  if unfinished:
    parts.append(markup.element('p', 'Runs that are not finished:'))
    lines = [f'{name} {state} ({log})' for name, state, log in unfinished]
    items = [markup.element('li', line) for line in lines]
    parts.append(markup.element('ul', *items))
  return markup.joined(parts)


def _picture(path: epath.Path) -> Html:
  """The picture in the text of the page, which asks no file of anybody."""
  if not path.exists():
    return markup.joined([])
  data = base64.b64encode(path.read_bytes()).decode()
  alt = 'Means of the rows with their standard deviations over seeds'
  return markup.element(
    'img', src=f'data:image/png;base64,{data}', alt=alt, style='max-width:100%'
  )


def _write_page(sweep: Sweep, section: Html) -> None:
  """Writes the page that compares the runs that have begun."""
  begun = [
    str(sweep.folder / run.name)
    for run in sweep.runs
    if (sweep.folder / run.name / restore.CONFIG).exists()
  ]
  if len(begun) > 1:
    first = [('sweep', f'Sweep {sweep.name}', section)]
    path = sweep.folder / report.PAGE
    page.write_or_say(begun, path, terminal.say, first)
