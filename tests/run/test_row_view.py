"""Rows on a terminal: documents, targets, loss weights and padding."""

import dataclasses

import numpy as np
import pytest
from rich.console import Console

from moejax.data import features, preview, vocab
from moejax.run import row_view

BYTES = vocab.Bytes()
TEXTS = ['one', 'two\x1b[31m!']


@pytest.fixture
def view():
  ids = [np.array([*BYTES.encode(t), BYTES.eos_id]) for t in TEXTS]
  ((rows, _),) = features.pack(ids, 20)
  return preview.Preview('from a test', ['words'], features.expand(*rows))


def _shown(view):
  console = Console(width=100, highlight=False, markup=False)
  with console.capture() as capture:
    row_view.show(view, BYTES, console)
  return capture.get()


def test_documents_have_borders_and_padding_is_counted(view):
  out = _shown(view)
  assert out.startswith('from a test:\n')
  assert 'row 1, words: 20 tokens in 2 documents, 14 of them with a loss' in out
  assert '── document 1: 4 tokens ────────\none<eos>\n' in out
  assert (
    '── document 2: 10 tokens ────────\ntwo\N{REPLACEMENT CHARACTER}[' in out
  )
  assert '── padding: 6 tokens' in out


def test_text_without_a_loss_and_with_another_weight_is_marked(view):
  weight_BL = view.rows.weight_BL.copy()
  weight_BL[0, :2] = 0
  weight_BL[0, 5] = 0.5
  rows = view.rows.replace(weight_BL=weight_BL)
  out = _shown(view._replace(rows=rows))
  assert '12 of them with a loss (60.0%)' in out
  assert '\n⟦on⟧e<eos>\n' in out
  assert '\nt⟦0.5: w⟧o' in out


def test_the_table_shows_what_is_read_and_predicted_at_a_border(view):
  rows = [line.split() for line in _shown(view).splitlines()]
  assert ['0', '1', '0', '0', '<start>', '114', "'o'", '1'] in rows
  assert ['3', '1', '3', '104', "'e'", '1', '<eos>', '1'] in rows
  assert ['4', '2', '0', '0', '<start>', '119', "'t'", '1'] in rows
  assert ['19', 'padding', '0'] in rows
  assert ['10', '2', '6'] not in [row[:3] for row in rows]  # inside


def test_every_field_of_a_batch_is_taken_along(view):
  names = {field.name for field in dataclasses.fields(view.rows)}
  joined = preview._joined([view.rows, view.rows], 2)
  for name in names:
    np.testing.assert_array_equal(
      getattr(joined, name), np.repeat(getattr(view.rows, name), 2, axis=0)
    )
