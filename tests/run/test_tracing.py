"""Traces of models: against slow references, on meshes, in flat memory."""

import dataclasses
import weakref

import jax
import numpy as np
import pytest
from helpers import references, tiny, traces

from moejax.analysis import trace_file
from moejax.core import errors
from moejax.data import features
from moejax.evals import perplexity
from moejax.evals.subject import untracked
from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.routers import ROUTERS
from moejax.moe.routers.top_k import TopK
from moejax.run import tracing
from moejax.run.traced_text import DocumentNumbers, shares

LENGTH = 6
CONFIG = tiny.model_config(moe={'router': TopK(k=2)})


def rows(count, seed=0, last=LENGTH):
  """Rows of random targets, of 2 documents each; padding in the last."""
  rng = np.random.default_rng(seed)
  target_NL = rng.integers(1, CONFIG.vocab_size, (count, LENGTH))
  segment_NL = np.repeat([[1] * 2 + [2] * (LENGTH - 2)], count, axis=0)
  segment_NL[-1, last:] = 0
  return traces.Rows(np.where(segment_NL > 0, target_NL, 0), segment_NL)


@pytest.fixture(scope='module')
def model():
  return tiny.model(CONFIG)


@pytest.fixture(scope='module')
def weights(model):
  return tiny.weights(model)


def joined(batches):
  """The batches of a trace as one."""
  batches = list(batches)
  return dataclasses.replace(batches[0], **traces.arrays(*batches))


def test_the_file_has_the_experts_of_a_slow_reference(model, weights, tmp_path):
  text = traces.text({'a': rows(2, seed=1), 'b': rows(3, seed=2, last=4)})
  path = tmp_path / 'a.parquet'
  header = trace_file.Header(7, 70, (1, 2), 4, ('a', 'b'))
  traced = tracing.trace(model, weights, text, step=7, tokens_seen=70)
  assert tracing.write(path, header, traced) == 5 * LENGTH - 2
  got = trace_file.read(path)
  assert (got.step, got.tokens_seen, got.layers) == (7, 70, (1, 2))
  start = 0
  for domain, reader in enumerate(text.readers.values()):
    batch = features.expand(*reader.rows(np.arange(reader.num_rows)))
    for row in range(reader.num_rows):
      tokens = [x[row] for x in (batch.token_BL, batch.segment_BL)]
      layers = []
      references.decoder(
        CONFIG, weights, *tokens, batch.position_BL[row], decisions=layers
      )
      for i in np.flatnonzero(batch.segment_BL[row]):
        for n, (experts_L, gates_L) in enumerate(layers):
          assert list(got.expert_TNK[start, n]) == experts_L[i]
          tiny.assert_close(
            got.weight_TNK[start, n], np.array(gates_L[i]), rtol=1e-4
          )
        assert got.token_T[start] == batch.token_BL[row, i]
        assert got.position_T[start] == batch.position_BL[row, i]
        assert got.domain_T[start] == domain
        start += 1
  assert start == len(got.token_T)
  assert not got.dropped_TNK.any()


def test_logits_are_traced_if_asked_for(model, weights):
  text = traces.text({'a': rows(2)})
  (trace,) = tracing.trace(model, weights, text, logits=True)
  prob = np.exp(trace.logits_TNE)
  prob /= prob.sum(axis=-1, keepdims=True)
  tiny.assert_close(
    trace.entropy_TN, -(prob * np.log(prob)).sum(axis=-1), rtol=1e-4
  )
  best = np.argsort(-trace.logits_TNE, axis=-1)[..., :2]
  np.testing.assert_array_equal(best, trace.expert_TNK)
  (plain,) = tracing.trace(model, weights, text)
  assert plain.logits_TNE is None


@pytest.mark.parametrize(
  'moe',
  [
    {'router': ROUTERS['expert_choice'](not_causal=True)},
    {
      'router': ROUTERS['top_p'](),
      'num_shared': 0,
      'dispatcher': DISPATCHERS['capacity'](factor=0.5),
    },
  ],
  ids=lambda moe: moe['router'].__class__.__name__,
)
def test_an_evaluation_counts_the_same_experts(moe, tmp_path):
  model = tiny.model(tiny.model_config(moe=moe))
  weights = tiny.weights(model)
  text = traces.text({'a': rows(40, last=3)})
  (score,) = perplexity.score_sets(
    perplexity.make_step(model),
    model,
    weights,
    text.readers,
    limit=0,
    track=untracked,
  ).values()
  path = tmp_path / 'a.parquet'
  header = trace_file.Header(0, 0, (1, 2), 4, ('a',))
  tracing.write(path, header, tracing.trace(model, weights, text))
  got = trace_file.read(path)
  for n in range(2):
    expert_A = got.expert_TNK[:, n].reshape(-1)
    count_E = np.bincount(expert_A[expert_A >= 0], minlength=4)
    np.testing.assert_array_equal(count_E, score.count_NE[n])
  assert got.dropped_TNK.any() == ('dispatcher' in moe)
  assert not got.dropped_TNK[got.expert_TNK < 0].any()
  assert not got.weight_TNK[got.expert_TNK < 0].any()


@pytest.mark.soak  # tests/model/test_routes.py has a mesh's routes
def test_a_mesh_traces_what_one_device_does(weights, model):
  text = traces.text({'a': rows(40)})
  want = joined(tracing.trace(model, weights, text))
  mesh = tiny.mesh(4, data=2, fsdp=1, expert=2)
  split = tiny.model(CONFIG, mesh)
  spread = jax.device_put(jax.device_get(weights), split.shardings)
  got = joined(tracing.trace(split, spread, text))
  for name in ('expert_TNK', 'token_T', 'document_T', 'position_T'):
    np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
  tiny.assert_close(got.weight_TNK, want.weight_TNK)


def test_no_document_goes_on_in_another_domain(model, weights):
  # No target is 0: whatever ends a row goes on in the next.
  text = traces.text({'a': rows(3), 'b': rows(3)}, eos_id=0)
  got = joined(tracing.trace(model, weights, text))
  assert set(got.document_T[got.domain_T == 0]) == {0, 1, 2, 3}
  assert set(got.document_T[got.domain_T == 1]) == {4, 5, 6, 7}


def test_no_row_beyond_those_asked_for_is_traced(model, weights):
  reader = rows(70)
  text = traces.text({'a': reader, 'b': rows(2)}, num_rows={'a': 33, 'b': 0})
  got = joined(tracing.trace(model, weights, text))
  batch = features.expand(*reader.rows(np.arange(33)))
  np.testing.assert_array_equal(got.token_T, batch.token_BL.reshape(-1))
  assert max(reader.read) < 64  # two batches of 32 rows
  assert set(got.domain_T) == {0}


def test_few_rows_have_the_routings_of_a_whole_batch(model, weights):
  reader = rows(70)
  few = traces.text({'a': reader, 'b': rows(2)}, num_rows={'a': 3})
  got = joined(tracing.trace(model, weights, few))
  assert max(reader.read) == 2  # no other row is computed
  want = joined(tracing.trace(model, weights, traces.text({'a': reader})))
  size = 3 * LENGTH
  for name in ('expert_TNK', 'token_T', 'document_T', 'position_T'):
    np.testing.assert_array_equal(
      getattr(got, name)[:size], getattr(want, name)[:size]
    )
  tiny.assert_close(got.weight_TNK[:size], want.weight_TNK[:size])


@pytest.mark.parametrize(
  ('router', 'sizes', 'size'),
  [
    (TopK(k=2), {}, 3),
    (TopK(k=2), {'data': 2, 'fsdp': 2}, 4),
    # Devices exchange tokens, and some may have no room.
    (TopK(k=2), {'data': 2, 'expert': 2}, 32),
    (ROUTERS['expert_choice'](not_causal=True), {}, 32),
  ],
)
def test_a_batch_has_the_rows_of_an_evaluation_where_tokens_meet(
  router, sizes, size
):
  mesh = tiny.mesh(4 if sizes else 1, **{'data': 1, 'fsdp': 1} | sizes)
  model = tiny.model(tiny.model_config(moe={'router': router}), mesh)
  few = traces.text({'a': rows(70), 'b': rows(2)}, num_rows={'a': 3})
  assert tracing.rows_per_batch(model, few) == size
  many = traces.text({'a': rows(70), 'b': rows(2)})
  assert tracing.rows_per_batch(model, many) == 32


def test_memory_holds_a_few_batches_however_many_there_are(
  model, weights, tmp_path, monkeypatch
):
  made, most = [], []
  finish = tracing._finish

  def counted(*args, **constants):
    trace = finish(*args, **constants)
    made.append(weakref.ref(trace.expert_TNK))
    return trace

  def add(writer, batch, write=tracing.TraceWriter.add):
    most.append(sum(one() is not None for one in made))
    write(writer, batch)

  monkeypatch.setattr(tracing, '_finish', counted)
  monkeypatch.setattr(tracing.TraceWriter, 'add', add)
  header = trace_file.Header(0, 0, (1, 2), 4, ('a',))
  text = traces.text({'a': rows(32 * 24)})
  traced = tracing.trace(model, weights, text)
  tracing.write(tmp_path / 'a.parquet', header, traced)
  assert len(most) == 24
  assert max(most) <= tracing.QUEUED + 3


def test_an_error_while_writing_reaches_the_caller(
  model, weights, tmp_path, monkeypatch
):
  def full(*_):
    raise errors.StoppedError('the disk is full')

  monkeypatch.setattr(tracing.TraceWriter, 'add', full)
  header = trace_file.Header(0, 0, (1, 2), 4, ('a',))
  text = traces.text({'a': rows(32 * 8)})
  with pytest.raises(errors.StoppedError, match='the disk is full'):
    tracing.write(
      tmp_path / 'a.parquet', header, tracing.trace(model, weights, text)
    )


def test_a_dense_model_and_several_processes_are_one_line(model, monkeypatch):
  dense = tiny.model(tiny.model_config(first_dense=3))
  with pytest.raises(errors.InputError, match='no layer with routed experts'):
    list(tracing.trace(dense, {}, traces.text({'a': rows(1)})))
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(errors.InputError, match='written by one process'):
    tracing.layers_of(model)


def test_documents_are_numbered_over_rows_batches_and_domains():
  batch = lambda target, segment: features.expand(target, segment)
  first = batch([[7, 1, 5], [8, 1, 6]], [[1, 1, 2], [1, 1, 2]])
  second = batch(
    [[9, 9, 1], [4, 1, 0], [0, 0, 0]], [[1] * 3, [1, 1, 0], [0] * 3]
  )
  numbers = DocumentNumbers(eos_id=1)
  # The document that ends the first row goes on in the second, that which ends
  # the second goes on in the next batch.
  assert numbers.of(first).tolist() == [[0, 0, 1], [1, 1, 2]]
  assert numbers.of(second)[:2].tolist() == [[2, 2, 2], [3, 3, 3]]
  assert numbers.of(batch([[5, 5, 5]], [[1] * 3])).tolist() == [[4] * 3]
  numbers.begin_domain()
  assert numbers.of(batch([[5, 5, 1]], [[1] * 3])).tolist() == [[5] * 3]
  # Where rows are in no order, each begins another document.
  apart = DocumentNumbers(eos_id=None)
  assert apart.of(first).tolist() == [[0, 0, 1], [2, 2, 3]]
  assert apart.of(second)[:2].tolist() == [[4] * 3, [5] * 3]


def test_tokens_are_shared_out_in_whole_rows():
  made = lambda *counts: {
    name: traces.Rows(np.ones((n, 100)), np.ones((n, 100)))
    for name, n in zip('abc', counts, strict=True)
  }
  assert shares(made(9, 1, 9), 0) == {'a': 9, 'b': 1, 'c': 9}
  assert shares(made(9, 1, 9), 600) == {'a': 3, 'b': 1, 'c': 2}
  assert shares(made(9, 1, 9), 1) == {'a': 1, 'b': 1, 'c': 1}
  assert shares(made(2, 1, 2), 10**9) == {'a': 2, 'b': 1, 'c': 2}
