"""Packing and expanding, against slow references and worked examples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moejax.data import features


def _documents(seed, count=40, longest=23):
  rng = np.random.default_rng(seed)
  return [
    np.append(rng.integers(2, 99, rng.integers(0, longest)), 1).astype(np.int32)
    for _ in range(count)
  ]


def _pack(documents, length, **kwargs):
  blocks = list(features.pack(iter(documents), length, **kwargs))
  rows = [rows for rows, _ in blocks]
  return (
    np.concatenate([r.target_NL for r in rows]),
    np.concatenate([r.segment_NL for r in rows]),
    [position for _, position in blocks],
  )


def _slow_pack(documents, length):
  """Token by token, as a sentence would say it."""
  rows, row, segment = [], [], 0
  for document in documents:
    new = True
    for token in document:
      if len(row) == length:
        rows.append(row)
        row, segment, new = [], 0, True
      segment += new
      new = False
      row.append((token, segment))
  if row:
    rows.append(row + [(0, 0)] * (length - len(row)))
  return np.array(rows)


def test_the_worked_example():
  target_NL, segment_NL, _ = _pack([np.array([7, 2]), np.array([5, 8, 1])], 6)
  batch = features.expand(target_NL, segment_NL)
  np.testing.assert_array_equal(batch.token_BL, [[0, 7, 0, 5, 8, 0]])
  np.testing.assert_array_equal(batch.target_BL, [[7, 2, 5, 8, 1, 0]])
  np.testing.assert_array_equal(batch.position_BL, [[0, 1, 0, 1, 2, 0]])
  np.testing.assert_array_equal(batch.segment_BL, [[1, 1, 2, 2, 2, 0]])
  np.testing.assert_array_equal(batch.weight_BL, [[1, 1, 1, 1, 1, 0]])
  assert batch.weight_BL.dtype == np.float32
  for name in ('token_BL', 'target_BL', 'position_BL', 'segment_BL'):
    assert getattr(batch, name).dtype == np.int32


def test_the_worked_example_of_a_cut():
  target_NL, segment_NL, _ = _pack([np.array([7, 2]), np.array([5, 8, 1])], 3)
  np.testing.assert_array_equal(target_NL, [[7, 2, 5], [8, 1, 0]])
  np.testing.assert_array_equal(segment_NL, [[1, 1, 2], [1, 1, 0]])
  batch = features.expand(target_NL, segment_NL)
  np.testing.assert_array_equal(batch.token_BL, [[0, 7, 0], [0, 8, 0]])


def test_another_first_id_stands_at_starts_alone():
  target_NL, segment_NL, _ = _pack([np.array([7, 0]), np.array([0, 8, 1])], 6)
  batch = features.expand(target_NL, segment_NL, first_id=9)
  np.testing.assert_array_equal(batch.token_BL, [[9, 7, 9, 0, 8, 0]])
  np.testing.assert_array_equal(batch.target_BL, [[7, 0, 0, 8, 1, 0]])
  np.testing.assert_array_equal(batch.weight_BL, [[1, 1, 1, 1, 1, 0]])


@pytest.mark.parametrize('length', [2, 7, 16, 1000])
@pytest.mark.parametrize('rows_per_block', [1, 3, 1024])
def test_packing_equals_the_slow_reference(length, rows_per_block):
  documents = _documents(length)
  target_NL, segment_NL, _ = _pack(
    documents, length, rows_per_block=rows_per_block
  )
  want = _slow_pack(documents, length)
  np.testing.assert_array_equal(target_NL, want[..., 0])
  np.testing.assert_array_equal(segment_NL, want[..., 1])


def test_every_token_is_a_target_once_and_in_order():
  documents = _documents(1)
  target_NL, segment_NL, _ = _pack(documents, 9, rows_per_block=2)
  np.testing.assert_array_equal(
    target_NL[segment_NL != 0], np.concatenate(documents)
  )
  assert (segment_NL[:-1] != 0).all()


@pytest.mark.parametrize('longest', [5, 60])
def test_packing_goes_on_from_any_position_it_gave(longest):
  documents = _documents(2, longest=longest)
  whole_NL, segment_NL, positions = _pack(documents, 8, rows_per_block=1)
  for row, position in enumerate(positions[:-1], 1):
    rest = documents[position.documents :]
    again_NL, segment_again_NL, after = _pack(
      rest, 8, rows_per_block=1, start=position
    )
    np.testing.assert_array_equal(again_NL, whole_NL[row:])
    np.testing.assert_array_equal(segment_again_NL, segment_NL[row:])
    assert after == positions[row:]


def test_empty_arrays_keep_their_place_in_the_count():
  documents = [np.array([3, 1]), np.array([], int), np.array([4, 4, 1])]
  target_NL, segment_NL, positions = _pack(documents, 2, rows_per_block=1)
  np.testing.assert_array_equal(target_NL, [[3, 1], [4, 4], [1, 0]])
  np.testing.assert_array_equal(segment_NL, [[1, 1], [1, 1], [1, 0]])
  assert positions[1] == features.Position(2, 2)


@pytest.mark.parametrize('offset', [0, 7])
def test_a_long_document_is_copied_once(offset, monkeypatch):
  copied, real = [], np.concatenate

  def counting(pieces, **kwargs):
    flat = real(pieces, **kwargs)
    copied.append(len(flat))
    return flat

  documents = [np.arange(1, 50_001), np.array([7, 1])]
  start = features.Position(0, offset)
  monkeypatch.setattr(np, 'concatenate', counting)
  blocks = list(features.pack(documents, 8, rows_per_block=4, start=start))
  monkeypatch.undo()
  assert len(blocks) > 1500
  assert sum(copied) == 50_002 - offset
  found = np.concatenate([r.target_NL[r.segment_NL > 0] for r, _ in blocks])
  np.testing.assert_array_equal(found, np.concatenate(documents)[offset:])


def test_nothing_packs_to_nothing():
  assert list(features.pack([], 4)) == []


def test_expanding_equals_the_slow_reference():
  target_NL, segment_NL, _ = _pack(_documents(3), 11)
  batch = features.expand(target_NL.astype('<u2'), segment_NL.astype('<u2'))
  for row in range(len(target_NL)):
    before, position = -1, 0
    for col in range(11):
      segment = segment_NL[row, col]
      position = position + 1 if segment == before else 0
      before = segment
      token = target_NL[row, col - 1] if position else 0
      if segment == 0:
        token = position = 0
      assert batch.token_BL[row, col] == token
      assert batch.position_BL[row, col] == position
      assert batch.weight_BL[row, col] == (segment > 0)


def test_records_hold_every_id_and_every_segment():
  assert features.row_dtype(8, 2**16)['target'].base == np.dtype('<u2')
  assert features.row_dtype(8, 2**16 + 1)['target'].base == np.dtype('<u4')
  assert features.row_dtype(2**16, 9)['segment'].base == np.dtype('<u4')
  assert features.row_dtype(256, 8192).itemsize == 1024


@st.composite
def _texts(draw):
  """Documents without id 0, each ending in 1 and nowhere else; some empty."""
  words = st.lists(st.integers(2, 99), max_size=15)
  documents = draw(st.lists(words, min_size=1, max_size=12))
  return [np.array([*words, 1], np.int32) for words in documents]


@given(
  documents=_texts(),
  length=st.integers(1, 9),
  rows_per_block=st.integers(1, 4),
  data=st.data(),
)
def test_every_token_is_a_target_once_in_order(
  documents, length, rows_per_block, data
):
  """Whole documents, or in pieces; from the start, or from any block on."""
  if data.draw(st.booleans(), 'in pieces'):
    pieces = [
      [document[:cut], document[cut:]]
      for document in documents
      for cut in [data.draw(st.integers(0, len(document) - 1))]
    ]
    given_documents = [iter([x for x in two if len(x)]) for two in pieces]
  else:
    given_documents = documents
  target_NL, segment_NL, positions = _pack(
    given_documents, length, rows_per_block=rows_per_block
  )
  total = sum(map(len, documents))
  assert target_NL.shape == segment_NL.shape == (-(-total // length), length)
  np.testing.assert_array_equal(
    np.stack([target_NL, segment_NL], -1), _slow_pack(documents, length)
  )
  batch = features.expand(target_NL, segment_NL, first_id=0)
  real = batch.weight_BL.reshape(-1).astype(bool)
  flat = np.concatenate(documents)
  # Padding is at the end alone.
  np.testing.assert_array_equal(real, np.arange(real.size) < total)
  np.testing.assert_array_equal(batch.target_BL.reshape(-1)[real], flat)
  # A token is read after the one before it, or it begins a segment.
  at = np.flatnonzero(real)
  begins = batch.position_BL.reshape(-1)[real] == 0
  np.testing.assert_array_equal(
    batch.token_BL.reshape(-1)[at[~begins]], flat[at[~begins] - 1]
  )
  assert not np.any(batch.token_BL.reshape(-1)[at[begins]])
  first = np.cumsum([0, *map(len, documents)])[:-1]
  assert begins[first].all()
  # From the position after any block it goes on with the same rows.
  block = data.draw(st.integers(0, len(positions) - 1), 'block')
  start = positions[block]
  rest = list(features.pack(
    iter(documents[start.documents :]),
    length,
    rows_per_block=rows_per_block,
    start=start,
  ))  # fmt: skip
  done = (block + 1) * rows_per_block
  assert sum(len(rows.target_NL) for rows, _ in rest) == max(
    0, len(target_NL) - done
  )
  for number, (rows, _) in enumerate(rest):
    row = done + number * rows_per_block
    np.testing.assert_array_equal(
      rows.target_NL, target_NL[row : row + rows_per_block]
    )
