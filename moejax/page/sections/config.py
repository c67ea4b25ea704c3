"""The section of config and versions."""

from collections.abc import Iterator, Mapping
from typing import Any

from moejax.page import markup, numbers
from moejax.page.data import PageData
from moejax.page.markup import Html
from moejax.page.section import Section


def config(data: PageData) -> Html | None:
  """Two tables that open on demand; None without both files."""
  parts = []
  if data.config:
    rows = [[key, numbers.text(value)] for key, value in flat(data.config)]
    parts.append(_folded('All keys of the config', ['Key', 'Value'], rows))
  if data.versions:
    rows = [[key, numbers.text(value)] for key, value in flat(data.versions)]
    parts.append(_folded('Versions and devices', ['Name', 'Value'], rows))
  return markup.joined(parts) if parts else None


def flat(tree: Any, path: str = '') -> Iterator[tuple[str, Any]]:
  """Dotted path and value of each leaf of nested dictionaries."""
  if isinstance(tree, Mapping) and tree:
    for name, value in tree.items():
      yield from flat(value, f'{path}.{name}' if path else str(name))
  else:
    yield path, tree


def _folded(title: str, head: list[str], rows: list[list[str]]) -> Html:
  table = markup.table(head, rows, title)
  return markup.element('details', markup.element('summary', title), table)


SECTION = Section('Config and versions', config, 'config.json, versions.json')
