"""Duplicates and near duplicates of known similarity."""

import hashlib
import sys

import numpy as np
import pytest

from moejax.core import errors
from moejax.data.steps import base, exact_duplicates, near_duplicates
from moejax.data.steps.exact_duplicates import ExactDuplicates
from moejax.data.steps.length import Length
from moejax.data.steps.near_duplicates import NearDuplicates


def _kept(texts, **steps):
  return list(base.Pass(steps).kept(texts))


def test_normalising_worked_by_hand():
  assert exact_duplicates.normalised(' The ﬁrst\n\tLine ') == 'the first line'
  # One letter with an accent, as one character or as two.
  one, two = 'caf\u00e9', 'cafe\u0301'
  assert exact_duplicates.normalised(one) == exact_duplicates.normalised(two)
  assert exact_duplicates.normalised('A b', ignore_case=False) == 'A b'


def test_the_first_of_equal_documents_is_kept():
  texts = ['One  two', 'three', 'one\ntwo', 'onetwo', ' THREE ', 'four']
  assert _kept(texts, exact=ExactDuplicates()) == [
    'One  two',
    'three',
    'onetwo',
    'four',
  ]
  assert _kept(texts, exact=ExactDuplicates(ignore_case=False)) == texts


def test_a_document_that_a_step_before_removes_is_no_earlier_copy():
  texts = ['ab ', 'ab  c', 'ab', 'ab c', 'abcd']
  length, exact = Length(min_characters=4), ExactDuplicates()
  assert _kept(texts, length=length, exact=exact) == ['ab  c', 'abcd']
  # In the other order 'ab ' is a copy too, and is removed for its length.
  one = base.Pass({'exact': exact, 'length': length})
  assert list(one.kept(texts)) == ['ab  c', 'abcd']
  assert [(r.documents_before, r.documents) for r in one.removed] == [
    (5, 2),
    (3, 1),
  ]


def test_every_pass_begins_with_no_documents_before():
  steps = {'exact': ExactDuplicates()}
  assert _kept(['a'], **steps) == _kept(['a'], **steps) == ['a']


def _pair(shared, different):
  """Two texts of known similarity, for shingles of one word.

  Each has `shared` words of both and `different` words of its own, so that
  their similarity is shared / (shared + 2 * different).
  """
  common = [f'common{n}' for n in range(shared)]
  return [
    ' '.join([*common, *(f'{side}{n}' for n in range(different))])
    for side in ('left', 'right')
  ]


def _similarity(step, one, other):
  return len(step.shingles(one) & step.shingles(other)) / len(
    step.shingles(one) | step.shingles(other)
  )


def test_shingles_worked_by_hand():
  step = NearDuplicates(size=2)
  assert step.shingles('A b, c\n b C') == {'a b', 'b c', 'c b'}
  assert step.shingles('one') == {'one'}
  assert step.shingles('') == {''}
  characters = NearDuplicates(size=3, unit='characters')
  assert characters.shingles('长江是长') == {'长 江 是', '江 是 长'}


def test_the_estimate_is_near_the_known_similarity():
  # The standard deviation at s = 0.6 is sqrt(0.6 * 0.4 / 4096) = 0.0077.
  step = NearDuplicates(size=1, num_hashes=4096)
  one, other = _pair(shared=600, different=200)
  assert _similarity(step, one, other) == 0.6
  estimate = np.mean(step.examine(one) == step.examine(other))
  assert abs(estimate - 0.6) < 4 * 0.0077


@pytest.mark.parametrize(
  ('shared', 'different', 'removed'),
  [
    (600, 0, True),  # similarity 1
    (900, 50, True),  # 0.9
    (700, 150, False),  # 0.7
    (0, 300, False),  # 0
  ],
)
def test_similar_documents_are_removed(shared, different, removed):
  # At 0.9 and 0.7 the threshold is 10 and 7 standard deviations away.
  step = NearDuplicates(size=1, num_hashes=1024)
  one, other = _pair(shared, different)
  similarity = shared / (shared + 2 * different)
  assert _similarity(step, one, other) == pytest.approx(similarity)
  kept = _kept([one, 'something else', other], near=step)
  assert kept == [one, 'something else', *([] if removed else [other])]


def test_copies_of_a_removed_document_are_compared_with_the_kept_one():
  # Each differs from the one before in a tenth; the third is less like the
  # first than the threshold says.
  words = [f'w{n}' for n in range(400)]
  chain = [' '.join(words[n * 20 : 360 + n * 20]) for n in range(3)]
  step = NearDuplicates(size=1, num_hashes=1024, threshold=0.85)
  # 340 / 380 = 0.895 between neighbours, 320 / 400 = 0.8 between the ends.
  assert _kept(chain, near=step) == [chain[0], chain[2]]


def _slow_minima(shingles, num_hashes, seed):
  """MinHash in Python's integers: SHA-1, mixed as MurmurHash3 ends, a*h + b."""
  draw = np.random.RandomState(seed)
  a = draw.randint(0, 2**31, num_hashes, dtype=np.uint32).tolist()
  b = draw.randint(0, 2**32, num_hashes, dtype=np.uint32).tolist()
  mixed = []
  for shingle in shingles:
    h = int.from_bytes(hashlib.sha1(shingle.encode()).digest()[:4], 'little')
    h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
    h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
    mixed.append(h ^ h >> 16)
  return [
    min(((2 * a[i] + 1) * h + b[i]) % 2**32 for h in mixed)
    for i in range(num_hashes)
  ]


def test_minima_equal_a_slow_reference():
  """So they stay the same from one version of the library to the next."""
  step = NearDuplicates(size=2, num_hashes=8, seed=3)
  text = 'The quick brown fox jumps over the lazy dog'
  minima = step.examine(text)
  assert minima.dtype == np.uint32
  assert minima.tolist() == _slow_minima(step.shingles(text), 8, 3)
  assert minima.tolist() != _slow_minima(step.shingles(text), 8, 1)


def test_the_number_of_bands_finds_pairs_at_the_threshold():
  assert near_duplicates.num_bands(0.8, 128) == (18, 7)
  for threshold in (0.3, 0.5, 0.8, 0.95, 1.0):
    bands, rows = near_duplicates.num_bands(threshold, 128)
    assert bands * rows <= 128
    assert 1 - (1 - threshold**rows) ** bands >= 0.95


def test_a_missing_library_is_one_line(monkeypatch):
  monkeypatch.setitem(sys.modules, 'datasketch', None)
  near_duplicates._empty.cache_clear()
  with pytest.raises(
    errors.InputError,
    match='data.steps.near_duplicates needs .*pip install .datasketch>=2.*'
    'data.steps.near_duplicates=off',
  ):
    NearDuplicates().examine('a')


@pytest.mark.parametrize(
  ('keys', 'match'),
  [
    ({'threshold': 0.0}, 'threshold'),
    ({'threshold': 1.1}, 'threshold'),
    ({'num_hashes': 1}, 'num_hashes'),
    ({'size': 0}, 'size'),
  ],
)
def test_values_out_of_bounds_are_refused(keys, match):
  with pytest.raises(errors.InputError, match=match):
    NearDuplicates(**keys)
