"""SECTIONS: the page that shows a run, by the name of each section.

  moejax report --workdir=runs/tiny
  moejax report --workdir=runs/a --workdir=runs/b --out=both.html

A section is a file in sections/ whose function takes a `PageData` (data.py:
what a workdir holds) and returns HTML, or None if the workdir lacks what it
shows; the page then has a line that says so. COMPARISONS are those of a page on
several runs, in comparisons/. To add one, write its file and give it a line
here: its heading, its place in the list of sections, and the line on what it
needs come with it.
"""

from collections.abc import Mapping, Sequence

from moejax.page import document, numbers
from moejax.page.comparisons import overlaid, settling, table
from moejax.page.data import PageData
from moejax.page.document import Page
from moejax.page.markup import Html
from moejax.page.section import Comparison, Section
from moejax.page.sections import (
  certainty,
  coloured,
  config,
  curves,
  domains,
  interventions,
  load,
  samples,
  similarity,
  stability,
  summary,
  time,
  together,
  vocabulary,
)

SECTIONS: Mapping[str, Section] = {
  'summary': summary.SECTION,
  'training': curves.SECTION,
  'experts': load.SECTION,
  'stability': stability.SECTION,
  'domains': domains.SECTION,
  'together': together.SECTION,
  'similarity': similarity.SECTION,
  'certainty': certainty.SECTION,
  'vocabulary': vocabulary.SECTION,
  'coloured': coloured.SECTION,
  'interventions': interventions.SECTION,
  'samples': samples.SECTION,
  'time': time.SECTION,
  'config': config.SECTION,
}

COMPARISONS: Mapping[str, Comparison] = {
  'table': table.COMPARISON,
  'curves': overlaid.COMPARISON,
  'stability': settling.COMPARISON,
}
# Name (its id on the page), heading and contents of a section.
Part = tuple[str, str, Html]
# Measures that the sections of a comparison show.
COMPARED_MEASURES = ('saturation', 'change_rate', 'utilisation')


def page(data: PageData, head: Html | None = None) -> Page:
  """The page of one run.

  Args:
    data: what its workdir holds.
    head: further elements at the end of <head>.
  """
  made = {name: entry.make(data) for name, entry in SECTIONS.items()}
  shown, left_out = _parts(SECTIONS, made)
  lead = '; '.join(f'{name}: {value}' for name, value in summary.facts(data)
                   if name in {'State', 'Tokens'})  # fmt: skip
  return document.document(data.name, lead, shown, left_out, head)


def comparison(
  runs: Sequence[PageData],
  head: Html | None = None,
  first: Sequence[Part] = (),
) -> Page:
  """The page of several runs.

  Args:
    runs: what their workdirs hold.
    head: further elements at the end of <head>.
    first: sections that stand before the others.
  """
  made = {name: entry.make(runs) for name, entry in COMPARISONS.items()}
  shown, left_out = _parts(COMPARISONS, made)
  title = f'{numbers.count(len(runs))} runs compared'
  lead = ', '.join(data.name for data in runs)
  return document.document(title, lead, [*first, *shown], left_out, head)


def _parts(
  table: Mapping[str, Section] | Mapping[str, Comparison],
  made: Mapping[str, Html | None],
) -> tuple[list[Part], list[str]]:
  """What is shown, and a line for each part that is not."""
  shown, left_out = [], []
  for name, html in made.items():
    entry = table[name]
    if html is None:
      left_out.append(f'{entry.title}: it needs {entry.needs}.')
    else:
      shown.append((name, entry.title, html))
  return shown, left_out
