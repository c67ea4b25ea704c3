"""Best-fit packing, against a slow reference and rows worked by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moejax.core import errors
from moejax.data import cache_writer, features, packings, vocab
from moejax.data.seqio_bridge import Document

START = features.Position()


def _pack(documents, length, *, window_rows=1024, rows_per_block=4):
  blocks = list(
    packings.BestFit(window_rows).pack(
      iter(documents), length, rows_per_block=rows_per_block, start=START
    )
  )
  empty_NL = np.zeros((0, length), np.int32)
  return (
    np.concatenate([empty_NL, *(rows.target_NL for rows, _ in blocks)]),
    np.concatenate([empty_NL, *(rows.segment_NL for rows, _ in blocks)]),
    [position for _, position in blocks],
  )


def _numbered(sizes):
  """Documents whose tokens are all different, so that each can be found."""
  ends = list(itertools.accumulate(sizes, initial=1))
  return [np.arange(a, b) for a, b in itertools.pairwise(ends)]


def _segments(target_NL, segment_NL):
  """The tokens of every segment, row by row."""
  return [
    target_L[segment_L == number].tolist()
    for target_L, segment_L in zip(target_NL, segment_NL, strict=True)
    for number in range(1, segment_L.max(initial=0) + 1)
  ]


def _slow_best_fit(sizes, length):
  """Looks at every row for every piece."""
  rows = []
  for size, number in sorted(
    ((size, number) for number, size in enumerate(sizes)),
    key=lambda pair: (-pair[0], pair[1]),
  ):
    spaces = [length - sum(sizes[n] for n in row) for row in rows]
    fitting = [
      (space, row) for row, space in enumerate(spaces) if space >= size
    ]
    if fitting:
      rows[min(fitting)[1]].append(number)
    else:
      rows.append([number])
  return rows


def _slow_pack(documents, length, window_rows):
  """One document after the other into lists; the rows as lists of segments."""
  pieces = [
    document[at : at + length].tolist()
    for document in documents
    for at in range(0, len(document), length)
  ]
  windows, held = [[]], 0
  for piece in pieces:
    if held >= window_rows * length:
      windows.append([])
      held = 0
    windows[-1].append(piece)
    held += len(piece)
  return [
    [window[number] for number in row]
    for window in windows
    for row in _slow_best_fit([len(piece) for piece in window], length)
  ]


def test_the_worked_example():
  documents = [
    np.array([7, 2]),
    np.array([5, 8, 4, 1]),
    np.array([3, 3, 3, 1]),
  ]
  target_NL, segment_NL, _ = _pack(documents, 6)
  np.testing.assert_array_equal(
    target_NL, [[5, 8, 4, 1, 7, 2], [3, 3, 3, 1, 0, 0]]
  )
  np.testing.assert_array_equal(
    segment_NL, [[1, 1, 1, 1, 2, 2], [1, 1, 1, 1, 0, 0]]
  )
  batch = features.expand(target_NL, segment_NL)
  np.testing.assert_array_equal(
    batch.token_BL, [[0, 5, 8, 4, 0, 7], [0, 3, 3, 3, 0, 0]]
  )
  np.testing.assert_array_equal(
    batch.position_BL, [[0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 0, 0]]
  )


def test_a_document_longer_than_a_row_is_cut_first():
  # 9 tokens are 4 + 4 + 1; the rest of 1 fills the row of the 3.
  target_NL, segment_NL, positions = _pack(_numbered([9, 3]), 4)
  np.testing.assert_array_equal(
    target_NL, [[1, 2, 3, 4], [5, 6, 7, 8], [10, 11, 12, 9]]
  )
  np.testing.assert_array_equal(
    segment_NL, [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 2]]
  )
  assert positions[-1] == features.Position(documents=2, cut=1)


def test_rows_worked_by_hand():
  # 10 alone; 7 and 6 open rows; 4 fits both and takes 6's, which it fills;
  # 3 fills 7's.
  assert packings.best_fit([4, 7, 3, 6, 10], 10) == [[4], [1, 2], [3, 0]]
  # A piece goes where the least space is left, not into the first row.
  assert packings.best_fit([5, 6, 4], 10) == [[1, 2], [0]]
  # Of equal rows into the first, of equal pieces the earlier first.
  assert packings.best_fit([6, 6, 2, 2], 10) == [[0, 2, 3], [1]]
  assert packings.best_fit([], 10) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=40))
def test_best_fit_equals_the_slow_reference(sizes):
  assert packings.best_fit(sizes, 12) == _slow_best_fit(sizes, 12)


SIZES = st.lists(st.integers(0, 30), max_size=25)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(2, 11), st.integers(1, 5), st.integers(1, 6))
def test_packing_equals_the_slow_reference(
  sizes, length, window_rows, rows_per_block
):
  documents = _numbered(sizes)
  target_NL, segment_NL, positions = _pack(
    documents, length, window_rows=window_rows, rows_per_block=rows_per_block
  )
  want = _slow_pack(documents, length, window_rows)
  want = [row for row in want if row]
  assert len(target_NL) == len(want)
  for target_L, segment_L, pieces in zip(
    target_NL, segment_NL, want, strict=True
  ):
    flat = [token for piece in pieces for token in piece]
    numbers = [n for n, piece in enumerate(pieces, 1) for _ in piece]
    padding = [0] * (length - len(flat))
    assert target_L.tolist() == flat + padding
    assert segment_L.tolist() == numbers + padding
  cut = sum(size > length for size in sizes)
  assert not positions or positions[-1].cut == cut


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(2, 11), st.integers(1, 5))
def test_nothing_is_lost_and_documents_keep_their_order(
  sizes, length, window_rows
):
  documents = _numbered(sizes)
  target_NL, segment_NL, _ = _pack(documents, length, window_rows=window_rows)
  tokens = target_NL[segment_NL != 0]
  assert sorted(tokens) == list(range(1, sum(sizes) + 1))
  for document in documents:
    inside = tokens[np.isin(tokens, document)]
    np.testing.assert_array_equal(inside, document)
  # A segment has tokens of one document; only long documents have several.
  ends = np.cumsum(sizes)
  num_segments = np.zeros(len(sizes), int)
  for segment in _segments(target_NL, segment_NL):
    (document,) = set(np.searchsorted(ends, segment).tolist())
    num_segments[document] += 1
    assert segment == list(range(segment[0], segment[-1] + 1))
  assert num_segments.tolist() == [-(-size // length) for size in sizes]


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(2, 11))
def test_positions_and_inputs_follow_the_segments(sizes, length):
  target_NL, segment_NL, _ = _pack(_numbered(sizes), length)
  batch = features.expand(target_NL, segment_NL, first_id=99)
  for row, segment_L in enumerate(segment_NL):
    numbers = segment_L[segment_L != 0]
    assert (np.diff(numbers) >= 0).all()  # padding stands behind the segments
    assert (segment_L[len(numbers) :] == 0).all()
    for number in range(1, segment_L.max() + 1):
      inside_L = segment_L == number
      position = batch.position_BL[row, inside_L]
      assert position.tolist() == list(range(inside_L.sum()))
      target = batch.target_BL[row, inside_L].tolist()
      assert batch.token_BL[row, inside_L].tolist() == [99, *target[:-1]]
  np.testing.assert_array_equal(batch.weight_BL, segment_NL != 0)


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(2, 9), st.integers(1, 4), st.integers(1, 5))
def test_packing_goes_on_from_any_position_it_gave(
  sizes, length, window_rows, rows_per_block
):
  documents = _numbered(sizes)
  packing = packings.BestFit(window_rows)
  blocks = list(
    packing.pack(documents, length, rows_per_block=rows_per_block, start=START)
  )
  for number, (_, position) in enumerate(blocks, 1):
    rest = list(
      packing.pack(
        documents[position.documents :],
        length,
        rows_per_block=rows_per_block,
        start=position,
      )
    )
    assert len(rest) == len(blocks) - number
    for (rows, after), (want, want_after) in zip(
      rest, blocks[number:], strict=True
    ):
      np.testing.assert_array_equal(rows.target_NL, want.target_NL)
      np.testing.assert_array_equal(rows.segment_NL, want.segment_NL)
      assert after == want_after


def test_a_document_in_arrays_is_packed_as_one_array():
  documents = _numbered([3, 40, 5])
  whole = _pack(documents, 8, window_rows=2)
  parts = [documents[0], iter(np.split(documents[1], [1, 9, 30])), documents[2]]
  for one, other in zip(_pack(parts, 8, window_rows=2), whole, strict=True):
    np.testing.assert_array_equal(one, other)


def test_packing_goes_on_within_a_document_in_arrays():
  packing = packings.BestFit(window_rows=2)
  (document,) = _numbered([40])
  blocks = [*packing.pack([document], 8, rows_per_block=1, start=START)]
  for number, (_, position) in enumerate(blocks, 1):
    parts = [iter(np.split(document, [1, 9, 30]))][position.documents :]
    rest = packing.pack(parts, 8, rows_per_block=1, start=position)
    for (rows, _), (want, _) in zip(rest, blocks[number:], strict=True):
      np.testing.assert_array_equal(rows.target_NL, want.target_NL)


def test_windows_bound_what_is_read_ahead():
  read = []

  def documents():
    for number in range(1000):
      read.append(number)
      yield np.array([5, 6, 1])

  packing = packings.BestFit(window_rows=10)
  blocks = packing.pack(documents(), 6, rows_per_block=1, start=START)
  for row in range(50):
    next(blocks)
    # Two documents fill a row, ten rows a window; one document is looked at
    # to end the window.
    assert len(read) == 20 * (row // 10 + 1) + 1


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(2, 11), st.integers(1, 6))
def test_sequential_packing_counts_the_documents_that_it_cuts(
  sizes, length, rows_per_block
):
  documents = _numbered(sizes)
  packing = packings.Sequential()
  blocks = list(
    packing.pack(documents, length, rows_per_block=rows_per_block, start=START)
  )
  ends = np.cumsum(sizes)
  want = sum(
    size > 0 and (end - size) // length != (end - 1) // length
    for size, end in zip(sizes, ends, strict=True)
  )
  if blocks:
    assert blocks[-1][1].cut == want
  for number, (_, position) in enumerate(blocks[:-1], 1):
    rest = list(
      packing.pack(
        documents[position.documents :],
        length,
        rows_per_block=rows_per_block,
        start=position,
      )
    )
    assert rest[-1][1].cut == want
    assert len(rest) == len(blocks) - number


class _Text(cache_writer.TextSource):
  """Documents of bytes, of which one may be followed by an interruption."""

  name = 'words'

  def __init__(self, sizes, fail_at=-1):
    self.sizes, self.fail_at = sizes, fail_at

  def identity(self, split, sums):
    return {'sizes': list(self.sizes)}

  def documents(self, split, vocab, *, skip, note):
    for number, size in enumerate(self.sizes):
      if number == self.fail_at:
        raise KeyboardInterrupt
      if number >= skip:
        ids_T = np.full(size + 1, 3 + number, np.int32)
        ids_T[-1] = 1
        yield Document(ids_T, size)


def _request(folder, packing, **kwargs):
  return cache_writer.Request(
    vocab=vocab.Bytes(),
    length=8,
    folder=folder,
    packing=packing,
    **{'rows_per_shard': 2, **kwargs},
  )


@pytest.mark.parametrize(
  'packing', [packings.Sequential(), packings.BestFit(window_rows=3)]
)
def test_an_interrupted_cache_becomes_the_same_to_the_byte(tmp_path, packing):
  sizes = np.random.default_rng(0).integers(0, 20, 30).tolist()
  whole = _Text(sizes).rows('train', _request(tmp_path / 'whole', packing))
  for stop in range(3, 30, 3):
    with pytest.raises(KeyboardInterrupt):
      _Text(sizes, stop).rows('train', _request(tmp_path / 'cut', packing))
  cut = _Text(sizes).rows('train', _request(tmp_path / 'cut', packing))
  assert cut.meta == whole.meta
  for shard in whole.meta.shards:
    assert (cut.path / shard.file).read_bytes() == (
      whole.path / shard.file
    ).read_bytes()
  not_empty = [size for size in sizes if size]
  assert whole.meta.num_documents == len(not_empty)
  assert whole.meta.num_bytes == sum(not_empty)


def test_best_fit_cuts_only_documents_longer_than_a_row(tmp_path):
  sizes = np.random.default_rng(1).integers(1, 12, 200).tolist()
  sequential, best_fit = (
    _Text(sizes)
    .rows('train', _request(tmp_path, packing, rows_per_shard=0))
    .meta
    for packing in (packings.Sequential(), packings.BestFit())
  )
  assert best_fit.num_cut == sum(size + 1 > 8 for size in sizes)
  assert sequential.num_cut > best_fit.num_cut
  assert sequential.num_tokens == best_fit.num_tokens
  rows = best_fit.num_rows
  assert best_fit.share_of_text == best_fit.num_tokens / (rows * 8)
  assert best_fit.share_of_text > 0.9
  assert sequential.num_rows == -(-sequential.num_tokens // 8)  # all full


def test_another_packing_is_another_cache_and_the_usual_keeps_its_name(
  tmp_path,
):
  names = {
    _Text([3]).rows('train', _request(tmp_path, packing)).fingerprint
    for packing in (
      packings.Sequential(),
      packings.BestFit(),
      packings.BestFit(window_rows=7),
    )
  }
  assert len(names) == 3
  spec = cache_writer._spec(
    _Text([3]), 'train', _request(tmp_path, packings.Sequential()), {}
  )
  assert 'packing' not in spec


def test_a_window_without_rows_is_refused():
  with pytest.raises(errors.InputError, match='window_rows'):
    packings.BestFit(window_rows=0)
