"""Calibration passes: against slow references, on meshes, layer by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import references, tiny, traces

from moejax.core import errors, trees
from moejax.data import features
from moejax.moe.feed_forwards import FEED_FORWARDS
from moejax.moe.routers import ROUTERS
from moejax.moe.routers.top_k import TopK
from moejax.run import (
  calibrating,
  calibration_batches,
  layerwise_calibration,
)
from moejax.run.calibration_batches import Total
from moejax.run.layer_source import LayerSource

LENGTH = 6
# A window of the whole row changes nothing.
CONFIG = tiny.model_config(moe={'router': TopK(k=2)}, windows=(LENGTH, 0))
# Every sum, and the numbers of tokens and of the first layer.
COMPARED = (
  'tokens',
  'count_NE',
  'gate_NE',
  'norm_NE',
  'gate_norm_NE',
  'gate_token_NE',
  'easy_ep_NE',
  'logit_gram_NEE',
  'first_layer',
)


def rows(count, seed=0, padding=0):
  """Rows of random targets, of 2 documents each; padding in the last."""
  rng = np.random.default_rng(seed)
  target_NL = rng.integers(1, CONFIG.vocab_size, (count, LENGTH))
  segment_NL = np.repeat([[1] * 2 + [2] * (LENGTH - 2)], count, axis=0)
  segment_NL[-1, LENGTH - padding :] = 0
  return traces.Rows(np.where(segment_NL > 0, target_NL, 0), segment_NL)


@pytest.fixture(scope='module')
def model():
  return tiny.model(CONFIG)


@pytest.fixture(scope='module')
def weights(model):
  return tiny.weights(model)


@pytest.fixture(scope='module')
def text():
  """Two domains; the first is longer than a batch."""
  return traces.text({'a': rows(34, seed=1), 'b': rows(3, seed=2, padding=2)})


@pytest.fixture(scope='module')
def statistics(model, weights, text):
  return calibrating.calibrate(model, weights, text, checkpoint='c')


def assert_same(got, want, rtol=1e-4):
  assert got.keys() == want.keys()
  for name in want:
    fields = [
      {field: getattr(x, field) for field in COMPARED}
      for x in (got[name], want[name])
    ]
    tiny.assert_close(*fields, rtol=rtol)


def test_counts_and_gates_are_those_of_a_slow_decoder(
  model, weights, statistics
):
  reader = rows(3, seed=2, padding=2)
  batch = features.expand(*reader.rows(np.arange(3)))
  count_NE, gate_NE = np.zeros((2, 2, 4))
  for row in range(3):
    layers = []
    references.decoder(
      CONFIG,
      weights,
      batch.token_BL[row],
      batch.segment_BL[row],
      batch.position_BL[row],
      decisions=layers,
    )
    for n, (experts_L, gates_L) in enumerate(layers):
      for experts, gates in zip(experts_L, gates_L, strict=True):
        for expert, gate in zip(experts, gates, strict=True):
          count_NE[n, expert] += 1
          gate_NE[n, expert] += gate
  got = statistics['b']
  assert (got.tokens, got.first_layer) == (16, 1)
  assert (got.checkpoint, got.tokenizer) == ('c', 'made up')
  np.testing.assert_array_equal(got.count_NE, count_NE)
  tiny.assert_close(got.gate_NE, gate_NE, rtol=1e-4)


def test_eight_devices_give_the_sums_of_one(weights, text, statistics):
  mesh = tiny.mesh(8, fsdp=2, expert=2, model=2)
  model = tiny.model(CONFIG, mesh)
  split = jax.device_put(jax.device_get(weights), model.shardings)
  assert_same(calibrating.calibrate(model, split, text), statistics)


def test_layer_by_layer_gives_the_sums_of_the_whole_model(
  model, weights, text, statistics
):
  arrays = trees.leaves(jax.device_get(weights))
  read = []

  def leaf(path, layer):
    read.append((path, layer))
    return arrays[path] if layer is None else arrays[path][layer]

  got = layerwise_calibration.calibrate(LayerSource(model, leaf), text)
  assert_same(got, statistics)
  # Each layer once, in order, and nothing behind the layers.
  front = [(path.partition('/')[0], layer) for path, layer in read]
  order = [('embed_VD', None), ('dense', 0), ('moe', 0), ('moe', 1)]
  assert list(dict.fromkeys(front)) == order
  assert front == sorted(front, key=order.index)
  assert len(read) == len({*read})


def test_documents_are_counted_within_each_domain(model, weights):
  """Five documents are two and a half rows; the rest counts as padding."""
  long, short = rows(4, seed=3), rows(3, seed=3, padding=4)
  short = traces.Rows(long.rows(np.arange(3))[0], short.rows(np.arange(3))[1])
  got = calibrating.calibrate(
    model, weights, traces.text({'a': long, 'b': long}), documents=5
  )
  want = calibrating.calibrate(model, weights, traces.text({'a': short}))
  assert want['a'].tokens == 14
  assert_same(got, {'a': want['a'], 'b': want['a']})


def test_documents_are_counted_over_all_blocks_of_rows(model, monkeypatch):
  """Rows are read two at a time; the fifth document begins the third row."""
  monkeypatch.setattr(calibration_batches, 'BLOCK', 2)
  reader = rows(5, seed=3)
  text = traces.text({'a': reader})
  (batches,) = calibration_batches.of(model, text, documents=5).values()
  (batch,) = batches
  # Of two and of four tokens, in turn.
  assert calibration_batches.num_tokens(batch) == 2 + 4 + 2 + 4 + 2
  wanted_NL = reader.rows(np.arange(3)).target_NL
  np.testing.assert_array_equal(batch.target_BL[:2], wanted_NL[:2])
  np.testing.assert_array_equal(batch.segment_BL[2], [1, 1, 0, 0, 0, 0])
  np.testing.assert_array_equal(batch.target_BL[2, :2], wanted_NL[2, :2])


def test_sums_of_many_batches_lose_no_digit():
  """2^24 + 1 is no float32; counts of a long text are larger."""
  total = Total()
  for count in (2**24, 1, 1):
    total.add({'count_E': jnp.array([count, 0], jnp.float32)})
  np.testing.assert_array_equal(total.sums['count_E'], [2**24 + 2, 0])


def test_rows_beyond_the_wanted_ones_are_left_out(model, weights):
  reader = rows(4, seed=4)
  some = traces.text({'a': reader}, num_rows={'a': 3})
  first = traces.Rows(*reader.rows(np.arange(3)))
  assert_same(
    calibrating.calibrate(model, weights, some),
    calibrating.calibrate(model, weights, traces.text({'a': first})),
  )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'moe': {'router': ROUTERS['expert_choice'](not_causal=True)}},
      'model.moe.router=expert_choice cannot be calibrated: its experts choose',
    ),
    (
      {'feed_forward': FEED_FORWARDS['soft_moe'](not_causal=True)},
      'model.feed_forward=soft_moe cannot be calibrated: no router chooses',
    ),
    (
      {'moe': {'router': ROUTERS['tc_moe']()}},
      'model.moe.router=tc_moe cannot be calibrated: it has',
    ),
    ({'moe': {'num_experts': 0}}, 'no layer with routed experts'),
  ],
  ids=['expert_choice', 'soft_moe', 'tc_moe', 'dense'],
)
def test_a_model_without_a_choice_of_each_token_is_refused(changes, message):
  with pytest.raises(errors.InputError, match=message):
    calibrating.check_model(tiny.model_config(**changes))


def test_a_text_without_tokens_or_with_other_ids_is_refused(model, weights):
  empty = traces.Rows(np.zeros((1, LENGTH)), np.zeros((1, LENGTH)))
  other = traces.Rows(np.full((1, LENGTH), 64), np.ones((1, LENGTH)))
  for reader, message in (
    (empty, "the calibration text 'a' has no token"),
    (other, 'has the id 64, but the model has 64 ids'),
  ):
    with pytest.raises(errors.InputError, match=message):
      calibrating.calibrate(model, weights, traces.text({'a': reader}))


def test_a_text_of_another_tokenizer_is_refused(text):
  with pytest.raises(
    errors.InputError, match="packed with the tokenizer 'made"
  ):
    calibrating.check_tokenizer(text, 'another')


def test_a_model_that_has_diverged_is_refused(model, weights, text):
  broken = jax.tree.map(lambda x: x * np.nan, weights)
  with pytest.raises(errors.InputError, match='not finite, first in layer 0'):
    calibrating.calibrate(model, broken, text)
