"""Papers, and what moejax has of each: code, configs, tests.

All but the titles is found in the repository: a docstring or a comment names a
paper by its number in arXiv.
"""

import collections
import pathlib
import re

from website import arxiv, docstrings, links, reference

PAGE = 'pages/papers.md'
# Package -> heading. A paper stands in the first section whose code names it.
SECTIONS = {
  'moe': 'Routing, balance and experts',
  'compress': 'Fewer experts',
  'analysis': 'Analysis',
  'research': 'Estimation of experts',
  'model': 'The decoder',
  'parallel': 'Devices',
  'train': 'Training',
  'sweep': 'Sweeps',
  'vision': 'Images',
  'data': 'Data',
  'evals': 'Benchmarks',
  'convert': 'Checkpoints',
  '': 'Others',
}
# A row of docs/moe.md: the entry of the zoo, and the cell of its papers.
_ENTRY = re.compile(r'^\| `(\w+)` \| ([^|]*) \|', re.MULTILINE)


def pages(root: pathlib.Path) -> dict[str, str]:
  """Path in docs/ -> Markdown, of the page of papers."""
  code = places(root)
  rows: dict[str, list[str]] = {heading: [] for heading in SECTIONS.values()}
  configs, tests = _configs(root), _tests(root, code)
  for number, title in arxiv.titles().items():
    holders = code.get(number, [])
    packages = {module.split('.')[1] for module, _ in holders}
    section = next(name for name in SECTIONS if name in packages or not name)
    cells = [
      f'{docstrings.escaped(title)}, {number}',
      ', '.join(_role(*holder) for holder in holders),
      ', '.join(configs.get(number, [])),
      ', '.join(_file(path) for path in tests.get(number, [])),
    ]
    rows[SECTIONS[section]].append(f'| {" | ".join(cells)} |')
  tables = '\n\n'.join(
    f'## {heading}\n\n| paper | in the code | configs | tests |\n'
    '|---|---|---|---|\n' + '\n'.join(lines)
    for heading, lines in rows.items()
    if lines
  )
  text = f"""# Papers, configs and tests

This page is made from the code: a docstring that follows a paper, or cites it,
names its number in arXiv. "In the code" are the classes, functions and modules
that do; "configs" are the files that name the paper, and the entries of the zoo
for which [moe.md](../moe.md#all-algorithms) does, with formulas and with what
differs from the authors' code. "Tests" are the files that name the paper, or a
class or function of the second column that names it.

{tables}
"""
  return {PAGE: arxiv.linked(text)}


def places(root: pathlib.Path) -> dict[str, list[tuple[str, str]]]:
  """Number in arXiv -> (module, public name in it or ''), sorted.

  What stands in a private function, or outside of all, is of the module.
  """
  found: dict[str, set[tuple[str, str]]] = collections.defaultdict(set)
  for module in reference.modules(root):
    for at, line in enumerate(module.text.splitlines(), start=1):
      for number in arxiv.NUMBER.findall(line):
        found[number].add((module.name, reference.holder(module, at)))
  return {number: sorted(holders) for number, holders in found.items()}


def _role(module: str, name: str) -> str:
  """A link to the reference."""
  if name:
    return f'{{py:obj}}`{name} <{module}.{name}>`'
  short = module.removeprefix('moejax.')
  return f'{{py:mod}}`{short} <{module}>`'


def _file(path: str) -> str:
  return f'[{path}]({links.REPOSITORY}/blob/main/{path})'


def _configs(root: pathlib.Path) -> dict[str, list[str]]:
  """Number in arXiv -> links to config files, and entries of the zoo."""
  found: dict[str, list[str]] = collections.defaultdict(list)
  for path in sorted((root / 'configs').rglob('*.py')):
    numbers = arxiv.NUMBER.findall(path.read_text(encoding='utf-8'))
    for number in dict.fromkeys(numbers):
      found[number].append(_file(path.relative_to(root).as_posix()))
  page = (root / 'docs' / 'moe.md').read_text(encoding='utf-8')
  for entry, cell in _ENTRY.findall(page.split('## All algorithms')[1]):
    for number in arxiv.NUMBER.findall(cell):
      found[number].append(f'`zoo:{entry}`')
  return found


def _tests(
  root: pathlib.Path, code: dict[str, list[tuple[str, str]]]
) -> dict[str, list[str]]:
  """Number in arXiv -> test files that name it, or a name that follows it.

  A name counts in the tests of its package alone: other packages may have
  another of the same name.
  """
  tests = root / 'tests'
  words = {
    path: set(re.findall(r'\d{4}\.\d{5}|\w+', path.read_text(encoding='utf-8')))
    for path in sorted(tests.rglob('test_*.py'))
  }
  found = {}
  for number in arxiv.titles():
    files = []
    for path, said in words.items():
      package = path.relative_to(tests).parts[0]
      names = {
        name
        for module, name in code.get(number, [])
        if name and module.split('.')[1] == package
      }
      if number in said or names & said:
        files.append(path.relative_to(root).as_posix())
    found[number] = files
  return found
