"""The halves of validation sets, and weights that are read in pieces."""

import dataclasses
import functools
from unittest import mock

import numpy as np
import pytest
from helpers import expert_statistics

from moejax.core import errors
from moejax.data.features import Rows
from moejax.data.vocab import Bytes, Ids
from moejax.run import (
  calibrating,
  calibration_text,
  full_model,
  traced_text,
)
from moejax.run.calibration_text import RowRange
from moejax.run.traced_text import TracedText


@dataclasses.dataclass(frozen=True)
class FiveRows:
  """Five rows of four tokens; row n has n + 1 targets - of the last one all."""

  num_rows: int = 5
  length: int = 4
  num_tokens: int = 1 + 2 + 3 + 4 + 4
  num_bytes: int = 28
  fingerprint: str = 'five'
  contents: str = 'sum'
  first_id: int = 0

  def rows(self, index_N):
    target_NL = np.asarray(index_N)[:, None] * 10 + np.arange(4)
    real_NL = np.arange(4) <= np.asarray(index_N)[:, None]
    return Rows(target_NL, real_NL.astype(np.int32))


def test_a_range_of_rows_is_these_rows():
  part = RowRange(FiveRows(), 1, 3)
  np.testing.assert_array_equal(
    part.rows(np.array([2, 0])).target_NL[:, 0], [30, 10]
  )
  assert part.num_tokens == 2 + 3 + 4
  assert part.num_bytes == 18  # two bytes a token
  assert (part.length, part.first_id) == (4, 0)
  assert part.fingerprint == 'five[1:4]'
  assert part.contents == 'sum[1:4]'


def test_halves_share_no_row_and_leave_none_out():
  first, second = calibration_text.halves({'code': FiveRows()})
  rows = [
    half['code'].rows(np.arange(half['code'].num_rows)).target_NL[:, 0]
    for half in (first, second)
  ]
  assert [r.tolist() for r in rows] == [[0, 10], [20, 30, 40]]


def test_a_set_of_one_row_has_no_halves():
  with pytest.raises(errors.InputError, match="set 'code' has 1 row, which"):
    calibration_text.halves({'code': FiveRows(num_rows=1)})


@pytest.mark.parametrize(
  ('domains', 'folder', 'read'),
  [
    ('', '', ['code', 'prose']),
    ('prose=2', '', ['prose']),
    ('prose=2', 'kept', ['code', 'prose']),
  ],
)
def test_domains_without_a_weight_are_read_only_to_be_kept(
  domains, folder, read, tmp_path, monkeypatch
):
  readers = dict.fromkeys(('code', 'prose'), FiveRows())
  text = TracedText(readers, dict.fromkeys(readers, 5))
  monkeypatch.setattr(calibration_text, 'open_text', lambda *a, **k: text)
  fingerprint = lambda *a: 'model@1'
  monkeypatch.setattr(calibrating, 'fingerprint', fingerprint)
  asked = []

  def calibrate(model, weights, text, **more):
    asked.extend(text.readers)
    assert (more['documents'], more['outputs']) == (7, True)
    return dict.fromkeys(text.readers, expert_statistics.random())

  monkeypatch.setattr(calibrating, 'calibrate', calibrate)
  collected = calibration_text.Collector(
    opened=mock.Mock(workdir='run'),
    calibration=calibrating.Calibration(documents=7, outputs=True),
    domains=domains,
    folder=folder and str(tmp_path / folder),
    half=False,
    note=print,
    track=lambda items, *_: items,
  ).collect(lambda: None, 1)
  assert asked == list(collected.statistics) == read
  assert list(collected.text['rows']) == read
  weights = {'prose': 2.0} if domains else {'code': 1.0, 'prose': 1.0}
  assert collected.domain_weights == weights


@pytest.mark.parametrize('vocab', [Ids(size=5), Bytes()], ids=str)
def test_a_model_without_a_tokenizer_takes_that_of_the_text(vocab, monkeypatch):
  run = mock.Mock()
  run.data.vocab = vocab
  monkeypatch.setattr(calibration_text.restore, 'run_of', lambda _: run)
  text = TracedText({}, {}, tokenizer='another')
  monkeypatch.setattr(traced_text, 'open_text', lambda *a, **k: text)
  open_text = functools.partial(
    calibration_text.open_text,
    mock.Mock(workdir='run'),
    calibrating.Calibration(files='my_text'),
    print,
    half=True,
  )
  if isinstance(vocab, Ids):
    assert open_text() is text
    return
  with pytest.raises(errors.InputError, match="tokenizer 'another', but the"):
    open_text()


class OfTuples:
  """An array whose index is a tuple, as a stored leaf's is."""

  def __init__(self, array):
    self.array = array

  def __getitem__(self, index):
    assert isinstance(index, tuple)
    assert Ellipsis not in index
    return self.array[index]


@pytest.mark.parametrize('index', [..., 1, slice(1, 3), (2, 0)], ids=str)
def test_a_leaf_is_indexed_like_an_array(index):
  array = np.arange(24).reshape(4, 3, 2)
  leaf = full_model.Leaf(OfTuples(array), array.shape)
  np.testing.assert_array_equal(leaf[index], array[index])


def test_weights_are_read_when_they_are_looked_up():
  read = []
  paths = {'w_DE': 'router/w_DE', 'w_out_EFD': 'routed/w_out_EFD'}
  weights = full_model.NamedWeights(paths, lambda p: read.append(p) or p)
  assert 'w_DE' in weights
  assert list(weights) == ['w_DE', 'w_out_EFD']
  assert read == []
  assert weights['w_DE'] == 'router/w_DE'
  assert read == ['router/w_DE']


@pytest.mark.parametrize(
  'index', [(1,), (slice(0, 2), 1), (1, slice(0, 2)), 0, ...], ids=str
)
def test_a_leaf_of_a_smaller_model_is_made_where_it_is_indexed(index):
  config = type('Config', (), {'num_moe': 3})
  smaller = type(
    'Smaller',
    (),
    {'config': config, 'layer': staticmethod(lambda p, n, x: x[[2, 0]] + n)},
  )
  array = np.arange(24).reshape(3, 4, 2)
  path = 'moe/ffn/routed/w_out_EFD'
  leaf = full_model.SmallerLeaf(smaller, path, array)
  whole = array[:, [2, 0]] + np.arange(3)[:, None, None]
  np.testing.assert_array_equal(leaf[index], whole[index])
  same = full_model.SmallerLeaf(smaller, 'embed_VD', array)
  np.testing.assert_array_equal(same[index], array[index])
