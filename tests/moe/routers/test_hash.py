import dataclasses

import jax
import numpy as np
import pytest
from helpers import dense, tiny

from moejax.core import errors
from moejax.moe.routers import hash as hashes
from moejax.moe.routers.hash import BalancedHash, Hash

E = 5
TOKEN_T = np.array([7, 3, 7, 900, 3, 0, 7, 12])
VALID_T = TOKEN_T != 0
ROUTERS = [Hash(), Hash(k=3), BalancedHash(k=2, vocab_size=1000)]


def given(token_T=TOKEN_T, **more):
  logits_TE = np.random.default_rng(0).normal(size=(len(token_T), E))
  return tiny.router_input(logits_TE, token_T=np.asarray(token_T), **more)


def gates(routing):
  return dense.numpy_gates(routing)


@pytest.mark.parametrize('router', ROUTERS, ids=str)
def test_the_id_alone_decides(router):
  """Whatever the logits, the place in the sequence, and the key."""
  router.check(E)
  plain = gates(tiny.route(router, given()))
  np.testing.assert_array_equal(plain[0], plain[2])
  np.testing.assert_array_equal(plain[1], plain[4])
  other = given(TOKEN_T[::-1].copy(), key=jax.random.key(3))
  np.testing.assert_array_equal(gates(router(other))[::-1], plain)


@pytest.mark.parametrize('router', ROUTERS, ids=str)
def test_k_different_experts_share_the_weight_without_gradient(router):
  routing = tiny.route(router, given(valid_T=VALID_T))
  gate_TE = gates(routing)
  k = router.experts_per_token
  assert routing.per_token == k
  assert ((gate_TE > 0).sum(axis=1) == np.where(VALID_T, k, 0)).all()
  np.testing.assert_allclose(gate_TE[VALID_T].max(axis=1), 1 / k)
  np.testing.assert_allclose(routing.prob_TE[VALID_T], gate_TE[VALID_T])
  whole = given()
  of_logits = lambda logits_TE: router(
    dataclasses.replace(whole, logits_TE=logits_TE)
  ).weight_A.sum()
  np.testing.assert_array_equal(
    jax.jit(jax.grad(of_logits))(whole.logits_TE), 0
  )


def test_random_hash_spreads_the_vocabulary_evenly():
  """20,000 ids; the standard deviation of a share is 0.003."""
  expert_A = tiny.route(Hash(), given(np.arange(20_000))).expert_A
  share_E = np.bincount(expert_A, minlength=E) / 20_000
  np.testing.assert_allclose(share_E, 1 / E, atol=0.015)


def test_layers_and_seeds_have_maps_of_their_own():
  ids = np.arange(2000)
  of = lambda router, layer: np.asarray(
    router(given(ids, layer=layer)).expert_A
  )
  plain = of(Hash(), 0)
  # Independent maps agree on one id in five.
  for other in (of(Hash(), 1), of(Hash(seed=1), 0)):
    assert 0.15 < (other == plain).mean() < 0.25
  same = Hash(by_layer=False)
  np.testing.assert_array_equal(of(same, 0), of(same, 1))


def test_balanced_by_hand():
  """The docstring's example, and one with k = 2.

  Counts 8, 6, 2 on three experts, half to each of two: id 0 takes 0 and 1
  (loads 4 4 0), id 1 takes 2 and 0 (7 4 3), id 2 takes 2 and 1.
  """
  table = hashes.balanced_table(np.array([6, 3, 2, 2]), 2, 1)
  np.testing.assert_array_equal(table[:, 0], [0, 1, 1, 1])
  table = hashes.balanced_table(np.array([8, 6, 2]), 3, 2)
  np.testing.assert_array_equal(table, [[0, 1], [2, 0], [2, 1]])


def test_balanced_loads_differ_by_less_than_one_id(tmp_path):
  """The greedy bound: two loads differ by at most the least frequent id that
  the heavier one holds. Counts are in no order, and one file holds them.
  """
  count_V = np.random.default_rng(1).zipf(1.3, 400).clip(max=3000)
  file = tmp_path / 'counts.txt'
  file.write_text('\n'.join(map(str, count_V)))
  router = BalancedHash(vocab_size=400, counts=str(file))
  expert_V = np.asarray(tiny.route(router, given(np.arange(400))).expert_A)
  load_E = np.bincount(expert_V, weights=count_V, minlength=E)
  for e in range(E):
    assert load_E[e] - load_E.min() <= count_V[expert_V == e].min()
  random_V = np.asarray(tiny.route(Hash(), given(np.arange(400))).expert_A)
  uneven_E = np.bincount(random_V, weights=count_V, minlength=E)
  assert uneven_E.max() > 1.2 * load_E.max()


def test_without_counts_ids_follow_zipf():
  router = BalancedHash(vocab_size=500)
  expert_V = np.asarray(tiny.route(router, given(np.arange(500))).expert_A)
  share_E = np.bincount(expert_V, weights=1 / np.arange(1, 501))
  np.testing.assert_allclose(share_E / share_E.sum(), 1 / E, atol=0.001)


def test_an_id_beyond_the_vocabulary_goes_round():
  router = BalancedHash(vocab_size=10)
  gate_TE = gates(tiny.route(router, given(np.arange(30))))
  np.testing.assert_array_equal(gate_TE[10:], gate_TE[:20])


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('1\n2\n3', 'has 3 counts, but router.vocab_size=4'),
    ('1\n2\nx\n4', "count of id 2: 'x' is no whole number"),
    ('1\n-2\n3\n4', "count of id 1: '-2' is no whole number"),
    (None, 'there is no such file'),
  ],
)
def test_bad_files_of_counts(tmp_path, text, message):
  file = tmp_path / 'counts.txt'
  if text is not None:
    file.write_text(text)
  with pytest.raises(errors.InputError) as error:
    BalancedHash(vocab_size=4, counts=str(file)).check(E)
  assert message in str(error.value)
  assert f'router.counts={file}' in str(error.value)


def test_bad_fields():
  for router in (Hash(k=6), BalancedHash(k=6)):
    with pytest.raises(errors.InputError, match=r'^router\.\w+='):
      router.check(E)
