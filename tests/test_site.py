"""What builds the documentation site; `make docs` builds it whole."""

import ast
import pathlib
import re
import sys
import textwrap

import pytest

from moejax.config import listing

ROOT = pathlib.Path(__file__).parents[1]
sys.path.append(str(ROOT / 'docs'))

from website import (  # noqa: E402
  annotations,
  arxiv,
  check,
  docstrings,
  keys,
  links,
  pages,
  papers,
  reference,
)

BLOB = f'{links.REPOSITORY}/blob/main'


def test_the_index_lists_every_page_once():
  text = (ROOT / 'docs' / 'index.md').read_text()
  blocks = re.findall(r'```\{toctree\}\n(.*?)```', text, re.DOTALL)
  listed = [
    line
    for block in blocks
    for line in block.splitlines()
    if line and not line.startswith(':')
  ]
  shown = set(pages.pages(ROOT).values()) | reference_and_keys()
  # The menu of a folder stands in its own index.
  of_folders = {
    to
    for to in shown
    if to.startswith(('pages/notebooks/', *FOLDERS)) and 'index' not in to
  }
  wanted = shown - of_folders - {'index.md'}
  assert sorted(f'{name}.md' for name in listed) == sorted(wanted)


FOLDERS = (reference.FOLDER, keys.FOLDER)


def reference_and_keys():
  return {papers.PAGE, *(f'{folder}/index.md' for folder in FOLDERS)}


@pytest.mark.parametrize(
  ('at', 'link', 'there'),
  [
    ('docs/runs.md', 'moe.md#routing', 'moe.md#routing'),
    ('docs/runs.md', '../configs/tiny.py', f'{BLOB}/configs/tiny.py'),
    ('docs/runs.md', '../CHANGELOG.md', 'pages/changelog.md'),
    ('docs/runs.md', '../tests/', f'{links.REPOSITORY}/tree/main/tests'),
    ('docs/runs.md', 'https://a.b/c.md', 'https://a.b/c.md'),
    ('docs/runs.md', '#exit-codes', '#exit-codes'),
    ('docs/studies/order.md', '../runs.md', '../runs.md'),
    ('docs/studies/order.md', 'order.png', 'order.png'),
    ('CHANGELOG.md', 'docs/moe.md#balance', '../moe.md#balance'),
    ('CHANGELOG.md', 'docs/studies/', '../studies/README.md'),
    ('CHANGELOG.md', 'docs/report.png', '../report.png'),
    ('tpu_scripts/README.md', 'colab/README.md', 'notebooks/index.md'),
    ('tpu_scripts/colab/README.md', '../../docs/moe.md', '../../moe.md'),
    ('tpu_scripts/colab/README.md', 'routers.ipynb', 'routers.ipynb'),
  ],
)
def test_a_link_leads_to_the_page_of_the_site_or_to_the_repository(
  at, link, there
):
  known = pages.pages(ROOT)
  code = f'`[a]({link})`\n\n```\n[a]({link})\n```\n'
  mended = links.rewritten(f'See [a]({link}), {code}', at, ROOT, known)
  assert mended == f'See [a]({there}), {code}'


def test_every_link_of_every_page_is_to_what_is_there():
  broken = []
  for path in pages.pages(ROOT):
    if path.endswith('.ipynb'):
      continue
    text = re.sub(
      r'```.*?```|`[^`\n]+`', '', (ROOT / path).read_text(), flags=re.DOTALL
    )
    for link in re.findall(r'\]\(([^)\s#]+)', text):
      if re.match(r'\w+:', link):
        if not re.fullmatch(r'https?://[\w.-]+\.\w+(/\S*)?', link):
          broken.append((path, link))
      elif not ((ROOT / path).parent / link).exists():
        broken.append((path, link))
  assert broken == []


def test_every_paper_that_the_code_names_has_a_title():
  named = set()
  for folder in ('moejax', 'configs'):
    for path in (ROOT / folder).rglob('*.py'):
      named |= set(arxiv.NUMBER.findall(path.read_text()))
  assert sorted(named) == list(arxiv.titles())


def test_the_number_of_a_paper_is_a_link_unless_it_is_code_or_one_already():
  number = '2405.04434'
  link = f'[{number}](https://arxiv.org/abs/{number})'
  text = 'see {} | `{}` | {}, 1234.56789\n```\n{}\n```\n'
  before = text.format(number, number, link, number)
  assert arxiv.linked(before) == text.format(link, number, link, number)


DOC = """
Sums x_TD * 2 over T.

  x_TD  [1 2]

1. First, as
   in [0].
2. Then `a_b`.

Args:
  x_TD: the rows,
    in order.
  a, b: [two] numbers.

Returns:
  A sum.
"""
MARKDOWN = r"""
Sums x\_TD \* 2 over T.

```text
x_TD  [1 2]
```

1. First, as
   in \[0\].
2. Then `a_b`.

**Args**

- `x_TD`: the rows,
  in order.
- `a`, `b`: \[two\] numbers.

**Returns**

A sum.
"""


def test_a_docstring_becomes_markdown_with_nothing_lost():
  assert docstrings.markdown(DOC.strip()) == MARKDOWN.strip()


SOURCE = {
  'moejax/__init__.py': '"""All."""\nfrom moejax.b import Words as Some\n',
  'moejax/a.py': '''
    """Rows."""
    from typing import Any
    # What holds rows.
    Rows = dict[str, Any]
    # How many.
    MOST = 3
    HIDDEN = 4
    class Text:
      """A text."""
      def read(self, most: int = 2) -> 'Rows':
        """Reads."""
      def _skip(self): ...
  ''',
  'moejax/b.py': '''
    """Users of rows."""
    import dataclasses
    from rich.text import Text
    from moejax import a
    from moejax.core import fields
    from moejax.a import Text as Words
    @dataclasses.dataclass
    class Job:
      """A job."""
      rows: a.Rows
      shown: Text | None = None
      rate: float = fields.number(0.5, low=0)
      kind: str = fields.choice(KINDS, 'x')
    def _own(): ...
    TEXTS = {'plain': a.Text, 'none': _own}
    KINDS = {'plain': a.Text, 'words': Words}
  ''',
}


def written(folder, files):
  """Writes files by their names."""
  for name, text in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text).lstrip())


def test_the_reference_has_what_is_public_with_the_types_full_names(tmp_path):
  written(tmp_path, SOURCE)
  made = reference.pages(tmp_path)
  assert list(made) == [
    'pages/reference/index.md',
    'pages/reference/moejax.md',
  ]
  page = made['pages/reference/moejax.md']
  signatures = re.findall(r'\{py:(\w+)\} (.*)', page)
  assert signatures == [
    ('module', 'moejax'),
    ('module', 'moejax.a'),
    ('type', 'Rows'),
    ('data', 'MOST'),
    ('class', 'Text'),
    ('method', 'read(most: int=2) -> moejax.a.Rows'),
    ('module', 'moejax.b'),
    (
      'class',
      'Job(rows: moejax.a.Rows, shown: rich.text.Text | None = None, '
      "rate: float = 0.5, kind: str = 'x')",
    ),
    ('data', 'KINDS'),
  ]
  assert '- `words`: {py:obj}`Text <moejax.a.Text>`' in page
  assert '| `moejax.Some` | {py:obj}`moejax.a.Text` |' in page


PAPER = {
  'moejax/moe/__init__.py': '"""Experts."""\n',
  'moejax/moe/a.py': """
    # The rows of arXiv 2405.04434.
    class Limited:
      'Groups (arXiv 2405.04434, section 2.1).'
    class Other: ...
  """,
  'configs/some/x.py': '"""The model of arXiv 2405.04434."""',
  'configs/y.py': '"""The model of arXiv 2401.06066."""',
  'docs/moe.md': """
    ## All algorithms
    | `v2` | 2405.04434, and V3 | top k |
    | `v1` | 2401.06066 | top k |
  """,
  'tests/moe/test_a.py': 'moe.Limited(3)',
  'tests/moe/test_b.py': 'moe.Unlimited, Other',
  'tests/data/test_c.py': 'Limited',
  'tests/data/test_d.py': '# arXiv 2405.04434',
}


def test_a_paper_has_its_code_its_configs_and_its_tests(tmp_path):
  written(tmp_path, PAPER)
  (page,) = papers.pages(tmp_path).values()
  (row,) = (line for line in page.splitlines() if 'abs/2405.04434) |' in line)
  _, paper, code, configs, tests, _ = row.split('|')
  assert 'DeepSeek-V2: A Strong' in paper
  assert code.split(', ') == [
    ' {py:mod}`moe.a <moejax.moe.a>`',
    '{py:obj}`Limited <moejax.moe.a.Limited>` ',
  ]
  names = lambda cell: re.findall(r'\[(.*?)\]|`(.*?)`', cell)
  assert names(configs) == [('configs/some/x.py', ''), ('', 'zoo:v2')]
  assert names(tests) == [
    ('tests/data/test_d.py', ''),
    ('tests/moe/test_a.py', ''),
  ]


def test_a_name_is_followed_to_where_it_is_defined():
  trees = {
    'moejax.a': ast.parse('class A: ...'),
    'moejax.b': ast.parse('from moejax.a import A as B'),
    'moejax.c': ast.parse('from moejax import b\nimport moejax.b as d'),
  }
  names = annotations.Names(trees)
  assert names.full('moejax.c', 'b.B') == 'moejax.a.A'
  assert names.full('moejax.c', 'd.B') == 'moejax.a.A'
  assert names.full('moejax.c', 'b.C') == ''
  assert names.full('moejax.c', 'int') == ''


def test_the_tables_of_keys_have_every_key():
  text = '\n'.join(keys.pages().values())
  shown = set(re.findall(r'^\| `([\w.]+)`', text, re.MULTILINE))
  missing = {key.path for key in listing.keys()}  # noqa: SIM118 - shown
  repeated = {
    path
    for path in missing
    for prefix in keys.LIKE_EXPERTS
    if path.replace(prefix, keys.EXPERTS) in shown
  }
  assert missing == repeated
  assert 'model.moe.router.k' in shown
  assert 'model.vision.encoder.width' in shown


@pytest.mark.parametrize(
  ('html', 'fault'),
  [
    ('<a href="b.html#there">', ''),
    ('<a href="https://a.org/x">', ''),
    ('<a href="c.html">', 'c.html: is not there'),
    ('<a href="b.html#here">', 'b.html#here: has no such place'),
    ('<a href="#here">', '#here: has no such place'),
    ('<a href="https://x y">', 'https://x y: is no address'),
    ('<a href="../moejax.py:1">', '../moejax.py:1: is not there'),
    ('<img src="no.png">', 'no.png: is not there'),
    (
      '<script src="https://a.org/x.js">',
      'https://a.org/x.js: is fetched from another host',
    ),
    (
      '<link rel="stylesheet" href="//a.org/x.css">',
      '//a.org/x.css: has an unknown scheme',
    ),
  ],
)
def test_a_link_of_the_built_site_that_leads_nowhere_is_found(
  tmp_path, html, fault
):
  (tmp_path / 'a.html').write_text(html)
  (tmp_path / 'b.html').write_text('<p id="there">')
  found = check.faults(tmp_path)
  assert found[:1] == ([f'a.html: {fault}'] if fault else [])
