"""The documents name what there is, and link to files that exist."""

import ast
import dataclasses
import importlib
import pathlib
import re

import pytest

from moejax import config
from moejax.analysis import MEASURES
from moejax.compress import CHOICES, GROUPINGS, IMPORTANCE, MEANS, METHODS
from moejax.config import old_keys, user_files
from moejax.moe.balance import BALANCE
from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.moe.experts import EXPERTS
from moejax.moe.routers import ROUTERS
from moejax.moe.scorers import SCORERS

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'moejax'
PAGE = ROOT / 'docs' / 'moe.md'
PAGES = [
  *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')),
  *sorted((ROOT / 'docs').glob('*.md')),
  *sorted((ROOT / 'docs' / 'howto').glob('*.md')),
]
LINK = re.compile(r'\]\(([^)\s]+)\)')
CODE = re.compile(r'`([^`]+)`')
TEST = re.compile(r'`(tests/[\w/]+\.py)::(\w+)`')
SETTING = re.compile(r'(\w+)=([\w.-]+)')

# By the first cell of a table's head: all that the table must name.
TABLES = {
  'router': ROUTERS,
  'scorer': SCORERS,
  'balance part': BALANCE,
  'dispatcher': DISPATCHERS,
  'expert_parallel': EXPERT_PARALLEL,
  'kind of experts': EXPERTS,
}


def rows(text, head, columns):
  """Cells by the name in the first, of all tables with such a head.

  Example: '| a | keys |', then '|---|---|', then '| `x` | `k` |', with head 'a'
  and columns ['keys'], gives {'x': ['`k`']}.
  """
  found, inside = {}, False
  start = re.compile(rf'\| {head} \| ' + r' \| '.join(columns) + r' \|')
  for line in text.splitlines():
    if start.match(line):
      inside = True
    elif not line.startswith('|'):
      inside = False
    elif inside and not line.startswith('|-'):
      first, *cells = (cell.strip() for cell in line.strip('|').split('|'))
      found[first.strip('`')] = cells
  return found


def zoo():
  """The zoo's entries by name, of both kinds."""
  module = user_files.load(str(ROOT / 'configs' / 'zoo.py'), 'config')
  return module.ZOO | module.OTHERS


def leaves(tree):
  """(key, value) of all that is set, at any depth."""
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from leaves(value)
    else:
      yield key, str(value)


def test_the_zoo_has_a_row_per_entry():
  cells = rows(PAGE.read_text(), 'entry', ['paper', 'formula'])
  assert sorted(cells) == sorted(zoo())


@pytest.mark.parametrize('entry', sorted(zoo()))
def test_a_row_of_the_zoo_says_how_the_entry_is_set(entry):
  _, formula, by, _ = rows(PAGE.read_text(), 'entry', ['paper'])[entry]
  assert formula
  settings = set(leaves(zoo()[entry]))
  wanted = {value for key, value in settings if key == 'name'}
  wanted |= set(zoo()[entry].get('balance', ()))
  assert wanted <= set(CODE.findall(by)), 'parts that the row does not name'
  assert set(SETTING.findall(by)) <= settings, 'what the entry does not set'


@pytest.mark.parametrize('head', TABLES)
def test_every_part_has_a_row_with_all_its_keys(head):
  cells = rows(PAGE.read_text(), head, ['keys'])
  assert sorted(cells) == sorted(TABLES[head])
  keys = {name: set(CODE.findall(row[0])) for name, row in cells.items()}
  for name, part in TABLES[head].items():
    # "those of `top_k`" stands for the keys in its row.
    said = set().union(*(keys.get(key, {key}) for key in keys[name]))
    assert said == {field.name for field in dataclasses.fields(part)}, name


def test_every_measure_has_a_row_with_its_source():
  text = (ROOT / 'docs' / 'analysis.md').read_text()
  columns = ['needs', 'question', 'definition', 'source']
  # A bar within a cell, as in |A|, is written with a backslash.
  cells = rows(text.replace(r'\|', ''), 'measure', columns)
  assert list(cells) == list(MEASURES)
  for name, (needs, question, definition, source) in cells.items():
    assert needs == MEASURES[name].needs
    assert question.endswith(('?', 'types'))
    assert definition
    docstring = ' '.join((MEASURES[name].function.__doc__ or '').split())
    for paper in re.findall(r'\d{4}\.\d{5}', source):
      assert paper in docstring, (name, paper)


@pytest.mark.parametrize(
  ('head', 'column', 'table'),
  [
    ('importance', 'formula', IMPORTANCE),
    ('choice', 'rule', CHOICES),
    ('grouping', 'vectors', GROUPINGS),
    ('mean', 'formula', MEANS),
  ],
)
def test_every_step_of_a_compression_has_a_row(head, column, table):
  """With the papers that its docstring names, and no others."""
  text = (ROOT / 'docs' / 'compress.md').read_text()
  cells = rows(text.replace(r'\|', ''), head, [column, 'source'])
  assert list(cells) == list(table)
  for name, (formula, source) in cells.items():
    assert formula
    assert source
    papers = lambda words: set(re.findall(r'\d{4}\.\d{5}', words))
    function = getattr(table[name], 'similarity', table[name])
    assert papers(source) == papers(function.__doc__), name


def test_every_method_of_compression_has_a_row_with_its_steps_and_papers():
  text = (ROOT / 'docs' / 'compress.md').read_text()
  cells = rows(text, 'method', ['steps', 'source'])
  assert list(cells) == list(METHODS)
  for name, (steps, source) in cells.items():
    method = METHODS[name]
    words = [method.importance, method.choice]
    if method.merge is None:
      words.append('removed')
    else:
      words += ['merged', method.merge.grouping, method.merge.mean]
    assert [word for word in words if word not in steps] == [], name
    papers = re.findall(r'\d{4}\.\d{5}', method.summary)
    assert re.findall(r'\d{4}\.\d{5}', source) == papers, name


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_link_points_to_what_is_there(page):
  for link in LINK.findall(page.read_text()):
    if re.match(r'\w+:', link):
      continue  # another place's
    path, _, place = link.partition('#')
    to = page.parent / path if path else page
    assert to.exists(), link
    if place:
      assert place in anchors(to.read_text()), link


def anchors(text):
  """What links can name in a page: its headings, as GitHub writes them."""
  heads = re.findall(r'^#+ (.+)$', text, re.MULTILINE)
  return {
    re.sub(r'[^\w -]', '', head).lower().replace(' ', '-') for head in heads
  }


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_a_page_opens_with_a_sentence_and_not_with_a_table_or_code(page):
  title, opening = page.read_text().split('\n\n')[:2]
  assert title.startswith('# ')
  assert re.match(r'[A-Z]?\w+ ', opening), opening


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page):
  for file, name in TEST.findall(page.read_text()):
    tree = ast.parse((ROOT / file).read_text())
    known = {x.name for x in tree.body if isinstance(x, ast.FunctionDef)}
    assert name in known, f'{file}::{name}'


# The changelog names what was, too.
NAMING = [page for page in PAGES if page.name != 'CHANGELOG.md'] + [
  path
  for folder in ('moejax', 'benchmarks', 'configs')
  for path in sorted((ROOT / folder).rglob('*.py'))
]
# A path with a folder, such as `moe/layer.py`; NAME in it stands for any name.
PATH = re.compile(r'(?<![\w/.:-])[a-z]\w*/(?:[\w.-]+/)*[\w-]+\.(?:py|md|sh)\b')
DOTTED = re.compile(r'(?<![\w/.-])(?:moejax|benchmarks)(?:\.(?!md\b)\w+)+')


def missing_paths(text, folder):
  """Paths that no folder has: project, package, the given one, its parent."""
  return [
    path
    for path in PATH.findall(text)
    if 'NAME' not in path
    and not any(
      (base / path).exists() for base in (ROOT, PACKAGE, folder, folder.parent)
    )
  ]


def is_name(dotted):
  """Whether a dotted name is a module, or something in a module."""
  module, _, rest = dotted.partition('.')
  node = importlib.import_module(module)
  for name in rest.split('.'):
    module = f'{module}.{name}'
    if not hasattr(node, name):
      try:
        importlib.import_module(module)
      except ModuleNotFoundError:
        return False
    node = getattr(node, name)
  return True


def test_every_path_that_a_page_or_a_file_names_exists():
  missing = {
    str(path.relative_to(ROOT)): paths
    for path in NAMING
    if (paths := missing_paths(path.read_text(), path.parent))
  }
  assert missing == {}


def test_every_dotted_name_that_a_page_or_a_file_names_exists():
  places = {}
  for path in NAMING:
    for name in DOTTED.findall(path.read_text()):
      places.setdefault(name, str(path.relative_to(ROOT)))
  assert {name: at for name, at in places.items() if not is_name(name)} == {}


def test_a_path_or_name_that_is_missing_is_found():
  text = 'see `moe/nothing.py`, `moe/layer.py` and docs/moe.md'
  assert missing_paths(text, ROOT / 'docs') == ['moe/nothing.py']
  assert is_name('moejax.moe.layer.MoE')
  assert is_name('moejax.load')
  assert not is_name('moejax.moe.nothing')
  assert not is_name('moejax.moe.layer.Nothing')


def test_every_promise_has_a_test():
  text = (ROOT / 'docs' / 'reliability.md').read_text()
  promises = [
    line
    for line in text.splitlines()
    if line.startswith('| ') and not line.startswith('| promise')
  ]
  assert len(promises) > 20
  for line in promises:
    assert TEST.search(line), line


def test_every_figure_is_shown_and_has_its_source():
  folder = ROOT / 'docs' / 'figures'
  drawn = {path.stem for path in folder.glob('*.svg')}
  shown = set()
  for page in PAGES:
    shown |= set(re.findall(r'figures/(\w+)\.svg\)', page.read_text()))
  assert drawn == shown
  script = (folder / 'make.py').read_text()
  for name in drawn:
    # Written by hand, or drawn by matplotlib.
    by_hand = '<style>\n    .' in (folder / f'{name}.svg').read_text()
    assert by_hand != (f'def {name}()' in script), name


def test_the_parts_in_the_readmes_figure_exist():
  text = (ROOT / 'docs' / 'figures' / 'layer.svg').read_text()
  names = re.findall(r'class="name"[^>]*>([^<]+)<', text)
  assert len(names) > 10
  known = set().union(*TABLES.values())
  assert {part for name in names for part in name.split(', ')} <= known


# Flags of pages: what follows a choice, a set or a name is a key of its own.
FLAG = re.compile(r'--config\.([a-z_.]+[a-z_])(?==)')


def is_key(path):
  """Whether a dotted path is a key of `Run`, or one of something chosen."""
  node = config.Run()
  for name in path.split('.'):
    fields = {field.name: field for field in dataclasses.fields(node)}
    if name not in fields:
      return False
    metadata = fields[name].metadata
    if 'choice' in metadata or 'choices' in metadata:
      table = metadata.get('choice') or metadata['choices']
      rest = path.split(f'{name}.', 1)[1:]
      keys = set(table) | {'name'}
      for part in table.values():
        keys |= {field.name for field in dataclasses.fields(part)}
      return not rest or rest[0].split('.')[0] in keys
    if 'keyed' in metadata:  # a name that the user chooses, and a key of it
      rest = path.split(f'{name}.', 1)[1:]
      keys = {field.name for field in dataclasses.fields(metadata['keyed'])}
      return not rest or rest[0].split('.')[1:2] in [[], *([k] for k in keys)]
    node = getattr(node, name)
    if not dataclasses.is_dataclass(node):
      return name == path.rsplit('.', maxsplit=1)[-1]
  return True


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_flag_of_a_page_is_a_key(page):
  for path in FLAG.findall(page.read_text()):
    assert is_key(path), path


def test_a_flag_that_is_no_key_is_found():
  assert is_key('model.moe.router.noise')
  assert is_key('model.moe.balance.loss_free')
  assert not is_key('model.moe.router.nose')
  assert not is_key('opt.peak_rl')
  assert not is_key('optimizer.peak_lr')


def glossary():
  """The first cells of the glossary's tables, by heading."""
  cells = {}
  for line in (ROOT / 'docs' / 'glossary.md').read_text().splitlines():
    if line.startswith('## '):
      words = cells.setdefault(line[3:], [])
    elif line.startswith('| ') and not line.startswith(('| word', '| letter')):
      words.append(line.strip('| ').split(' | ')[0])
  return cells


def test_the_glossary_is_sorted():
  for words in glossary().values():
    assert words == sorted(words, key=str.lower)


def test_the_glossary_has_every_letter_of_a_packages_legend():
  letters = set(re.findall(r'[A-Z]', ' '.join(glossary()['Letters of shapes'])))
  legend = re.compile(r'(?<=[\s(])([A-Z]) [a-z]')
  used = set()
  for path in (ROOT / 'moejax').rglob('__init__.py'):
    text = ast.get_docstring(ast.parse(path.read_text()))
    legends = text.partition('Letters of shapes')[2]
    assert set(legend.findall(legends)) <= letters, path
    used |= set(legend.findall(legends))
  assert len(used) > 10


def test_the_changelog_has_every_renamed_key_and_value():
  lines = (ROOT / 'CHANGELOG.md').read_text().splitlines()
  # Rows such as "| `before` | `now` (a reason) |".
  rows = [line.split('|')[1:3] for line in lines if line.count('|') == 3]
  renamed = old_keys.KEYS.items() | {
    pair for values in old_keys.VALUES.values() for pair in values.items()
  }
  for old, new in renamed:
    assert any(
      f'`{old}`' in before and f'`{new}`' in now for before, now in rows
    ), f'CHANGELOG.md does not say that {old} is {new}'


def test_the_changelog_has_every_renamed_module_of_config_files():
  text = (ROOT / 'CHANGELOG.md').read_text()
  for old, new in old_keys.MODULES.items():
    package, _, name = new.rpartition('.')
    row = f'| `from moejax.cli import {old}` | `from {package} import {name}` |'
    assert row in text, f'CHANGELOG.md does not say that {old} is {new}'
