"""The place of a table in a document: all around it stays."""

import pytest

from moejax.core import errors
from moejax.sweep import document

DOCUMENT = """# Routers

<!-- begin sweep routers -->
old
<!-- end sweep routers -->
<!-- begin sweep headline -->
other
<!-- end sweep headline -->
The end.
"""


def test_a_table_replaces_what_is_between_its_markers_alone(tmp_path):
  path = tmp_path / 'routers.md'
  path.write_text(DOCUMENT)
  document.put(path, 'routers', '\n| new |\n')
  assert path.read_text() == DOCUMENT.replace('old', '| new |')
  made = tmp_path / 'made.md'
  for text in ('first', 'second'):
    document.put(made, 'mine', text)
  assert made.read_text() == (
    '# mine\n\n<!-- begin sweep mine -->\nsecond\n<!-- end sweep mine -->\n'
  )


@pytest.mark.parametrize(
  'text',
  [
    'nothing\n',
    '<!-- begin sweep routers -->\n',
    '<!-- end sweep routers -->\n<!-- begin sweep routers -->\n',
    DOCUMENT + DOCUMENT,
  ],
)
def test_a_document_without_a_place_is_refused_and_left(tmp_path, text):
  path = tmp_path / 'routers.md'
  path.write_text(text)
  with pytest.raises(errors.InputError, match='begin sweep routers -->'):
    document.split(path, 'routers')
  with pytest.raises(errors.InputError):
    document.put(path, 'routers', 'new')
  assert path.read_text() == text
