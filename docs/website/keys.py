"""Every config key, with type, default, range and meaning, as pages."""

import json

from moejax.config import listing
from website import docstrings
from website import pages as site

FOLDER = 'pages/keys'
# The experts of layers. Other experts have the same keys, which one page shows.
EXPERTS = 'model.moe'
LIKE_EXPERTS = ('model.vision.encoder.feed_forward', 'model.vision.projector')
# Title of a page -> what its keys begin with. The longest beginning decides.
PAGES = {
  'data': 'data',
  'model': 'model',
  'experts': EXPERTS,
  'vision': 'model.vision',
  'optimiser': 'opt',
  'training': 'train',
  'others': '',
}


def pages() -> dict[str, str]:
  """Path in docs/ -> Markdown, of the tables of config keys."""
  keys = listing.keys()
  shown = _without_repeats(keys)
  by_page: dict[str, list[listing.Key]] = {name: [] for name in PAGES}
  for key in shown:
    by_page[_page_of(key)].append(key)
  links = '\n'.join(
    f'| [{name}]({name}.md) | {_beginnings(part)} | {len(part)} |'
    for name, part in by_page.items()
  )
  written = {
    f'{FOLDER}/index.md': f"""# Config keys

All {len(keys)} keys that a config and a flag can set, from the dataclasses
that define them; [configs.md](../../configs.md) says how they are set. In a
terminal `moejax config --list` prints them, and `moejax config --list=schedule`
those with a word in their path.

| page | keys begin with | keys |
|---|---|--:|
{links}
"""
    + site.toctree(PAGES)
  }
  for name, part in by_page.items():
    written[f'{FOLDER}/{name}.md'] = _page(name, part)
  return written


def _page_of(key: listing.Key) -> str:
  fitting = [
    name
    for name, start in PAGES.items()
    if not start or f'{key.path}.'.startswith(f'{start}.')
  ]
  return max(fitting, key=lambda name: len(PAGES[name]))


def _beginnings(keys: list[listing.Key]) -> str:
  """What stands before the first dot of keys, or before the second."""
  parts = 2 if len({key.path.split('.')[0] for key in keys}) == 1 else 1
  starts = dict.fromkeys('.'.join(key.path.split('.')[:parts]) for key in keys)
  return ', '.join(f'`{start}`' for start in starts)


def _without_repeats(keys: list[listing.Key]) -> list[listing.Key]:
  """Keys without those of other experts that EXPERTS has under their names."""

  def content(key: listing.Key, prefix: str) -> tuple[object, ...]:
    path = key.path.removeprefix(f'{prefix}.')
    return path, key.type, key.allowed, key.meaning

  own = {content(key, EXPERTS) for key in keys}
  return [
    key
    for key in keys
    if not any(
      key.path.startswith(f'{prefix}.') and content(key, prefix) in own
      for prefix in LIKE_EXPERTS
    )
  ]


def _page(name: str, keys: list[listing.Key]) -> str:
  """The page of some keys: a table for each choice that brings keys."""
  sections = [f'# Config keys: {name}']
  if name == 'vision':
    starts = ' and '.join(f'`{start}`' for start in LIKE_EXPERTS)
    sections.append(
      f'{starts}, as `experts`, have the keys of [experts](experts.md) too,'
      f' with the names that stand there behind `{EXPERTS}`. They are not'
      ' repeated here.'
    )
  by_choice: dict[str, list[listing.Key]] = {}
  for key in keys:
    by_choice.setdefault(key.only_with, []).append(key)
  for choice, part in by_choice.items():
    if choice:
      choices = ', '.join(f'`{one}`' for one in choice.split(', '))
      sections.append(f'## With {choices}')
    sections.append(_table(part))
  return '\n\n'.join(sections) + '\n'


def _table(keys: list[listing.Key]) -> str:
  rows = ['| key | type, default | range or names | meaning |']
  rows.append('|---|---|---|---|')
  for key in keys:
    default = key.default
    shown = default if isinstance(default, str) else json.dumps(default)
    cells = [
      f'`{key.path}`',
      f'{key.type}, `{shown}`' if shown else f'{key.type}, empty',
      docstrings.escaped(key.allowed),
      docstrings.escaped(key.meaning),
    ]
    rows.append(f'| {" | ".join(_cell(cell) for cell in cells)} |')
  return '\n'.join(rows)


def _cell(text: str) -> str:
  """Text in which a bar does not end the cell."""
  return text.replace('\\|', '|').replace('|', '\\|').replace('\n', ' ')
