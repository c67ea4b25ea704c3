"""Which file of the repository is which page of the site."""

import json
import pathlib
import re
from collections.abc import Iterable

from website import links

# Where pages of other folders are written before a build; git ignores it.
GENERATED = 'pages'
_OTHERS = {
  'CHANGELOG.md': 'changelog.md',
  'CONTRIBUTING.md': 'contributing.md',
  'tpu_scripts/README.md': 'tpu_scripts.md',
  'tpu_scripts/colab/README.md': 'notebooks/index.md',
}

_BADGE = re.compile(r'\[!\[([^]]*)\]\([^)]*\)\]')


def pages(root: pathlib.Path) -> dict[str, str]:
  """Path in the repository -> path in docs/, of all that the site shows."""
  docs = root / 'docs'
  found = {
    f'docs/{path}': str(path)
    for path in sorted(x.relative_to(docs) for x in docs.rglob('*.md'))
    if path.parts[0] != GENERATED
  }
  found |= {path: f'{GENERATED}/{to}' for path, to in _OTHERS.items()}
  for path in sorted((root / 'tpu_scripts' / 'colab').glob('*.ipynb')):
    found[str(path.relative_to(root))] = f'{GENERATED}/notebooks/{path.name}'
  return found


def copies(root: pathlib.Path) -> dict[str, str]:
  """Path in docs/ -> text, of the pages that lie in other folders.

  A badge, which is a picture of another host, becomes its words.
  """
  known = pages(root)
  written = {}
  for path, to in known.items():
    if path.startswith('docs/'):
      continue
    text = (root / path).read_text(encoding='utf-8')
    if path.endswith('.ipynb'):
      notebook = json.loads(text)
      for cell in notebook['cells']:
        if cell['cell_type'] == 'markdown':
          words = _BADGE.sub(r'[\1]', ''.join(cell['source']))
          words = links.rewritten(words, path, root, known)
          cell['source'] = words.splitlines(keepends=True)
      # Cells have lines of the shell, which Python's lexer does not know.
      notebook['metadata']['language_info']['pygments_lexer'] = 'ipython3'
      text = json.dumps(notebook, indent=1)
    else:
      text = links.rewritten(_BADGE.sub(r'[\1]', text), path, root, known)
    written[to] = text
  names = [pathlib.PurePath(to).stem for to in written if to.endswith('.ipynb')]
  written[f'{GENERATED}/notebooks/index.md'] += toctree(names)
  return written


def toctree(names: Iterable[str]) -> str:
  """A list of pages for the menu, which their own page does not show."""
  lines = '\n'.join(names)
  return f'\n```{{toctree}}\n:hidden:\n\n{lines}\n```\n'


def write(docs: pathlib.Path, texts: dict[str, str]) -> None:
  """Writes the generated pages, leaves those that are current, removes others.

  Args:
    docs: the source folder of the site.
    texts: path in it -> text, of all pages below GENERATED.
  """
  for to, text in texts.items():
    path = docs / to
    if not path.exists() or path.read_text(encoding='utf-8') != text:
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(text, encoding='utf-8')
  for path in (docs / GENERATED).rglob('*.*'):
    if str(path.relative_to(docs)) not in texts:
      path.unlink()
