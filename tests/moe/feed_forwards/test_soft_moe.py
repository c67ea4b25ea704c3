import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import references, tiny

from moejax.moe.experts.two_matrix import TwoMatrix
from moejax.moe.feed_forwards import soft_moe
from moejax.moe.feed_forwards.soft_moe import SoftMoE, SoftMoEConfig
from moejax.parallel import rules

B, L, D = 2, 6, 5
CONFIG = SoftMoEConfig(num_experts=3, expert_width=4, slots=2)
RNG = np.random.default_rng(0)
X_BLD = RNG.normal(size=(B, L, D)).astype(np.float32)
X_BLD[0, 4] = 0
VALID_BL = np.array([[1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 0, 0]], bool)

# Tokens x slots of the facts' worked example, and what comes out.
LOGITS = np.array([[2, 1, 0, -1], [0, 1, 2, 1.5], [1, 1.5, 0.5, 0]])


@functools.cache
def layer(config=CONFIG, width=D):
  make = lambda: SoftMoE(config, width, L, 0.02, jax.random.key(0))
  return tiny.module(make, std=0.5)


@functools.partial(jax.jit, static_argnums=0)
def _apply(graph, w, x_BLD, valid_BL):
  return tiny.bind(graph, w).output(x_BLD, valid_BL)


def apply(x_BLD=X_BLD, valid_BL=VALID_BL, config=CONFIG):
  graph, w = layer(config)
  w = {**w, 'scale': np.float32(1.7)}
  return np.asarray(_apply(graph, w, x_BLD, valid_BL))


def test_the_worked_example():
  """Expert e multiplies by e + 1."""
  x_LD = np.array([[1.0, 0], [0, 1], [1, 1]])
  in_BLEP, out_BLEP = soft_moe.mixtures(
    jnp.asarray(LOGITS)[None, :, :, None], np.ones((1, 3), bool)
  )
  in_LE, out_LE = in_BLEP[0, :, :, 0], out_BLEP[0, :, :, 0]
  np.testing.assert_allclose(
    in_LE,
    [
      [0.6652, 0.2741, 0.0996, 0.0629],
      [0.0900, 0.2741, 0.7361, 0.7662],
      [0.2447, 0.4519, 0.1643, 0.1710],
    ],
    atol=6e-5,
  )
  slots_ED = in_LE.T @ x_LD
  np.testing.assert_allclose(
    slots_ED,
    [[0.9100, 0.3348], [0.7259, 0.7259], [0.2639, 0.9004], [0.2338, 0.9371]],
    atol=6e-5,
  )
  np.testing.assert_allclose(
    out_LE @ (slots_ED * np.arange(1, 5)[:, None]),
    [[1.0288, 0.9150], [0.9557, 2.6326], [1.1393, 1.5859]],
    atol=2e-4,
  )


def by_loop(w, x_LD, valid_L, scale=1.7):
  """One sequence, slot by slot and token by token, in float64."""
  phi_DEP = np.asarray(w['phi_DEP'], np.float64)
  _, E, P = phi_DEP.shape
  valid = [t for t in range(L) if valid_L[t]]

  def logit(t, e, p):
    phi_D, x_D = phi_DEP[:, e, p], np.asarray(x_LD[t], np.float64)
    return (
      scale
      * (phi_D @ x_D)
      / np.sqrt((phi_D @ phi_D + 1e-6) * (x_D @ x_D + 1e-6))
    )

  made = {}
  for e in range(E):
    for p in range(P):
      share = references.softmax([logit(t, e, p) for t in valid])
      slot_D = sum(s * x_LD[t] for s, t in zip(share, valid, strict=True))
      made[e, p] = references.swiglu(
        w['routed']['w_in_ED2F'][e], w['routed']['w_out_EFD'][e], slot_D
      )
  out_LD = np.zeros((L, D))
  for t in valid:
    share = references.softmax([logit(t, *slot) for slot in made])
    out_LD[t] = sum(s * y for s, y in zip(share, made.values(), strict=True))
  return out_LD


def test_it_is_the_loop_over_slots_and_tokens():
  out_BLD = apply()
  _, w = layer()
  for b in range(B):
    want_LD = by_loop(w, X_BLD[b], VALID_BL[b])
    np.testing.assert_allclose(out_BLD[b], want_LD, rtol=1e-4, atol=1e-5)


def test_shares_sum_to_one():
  logits_BLEP = RNG.normal(size=(B, L, 3, 2)) * 4
  in_BLEP, out_BLEP = soft_moe.mixtures(logits_BLEP, VALID_BL)
  np.testing.assert_allclose(in_BLEP.sum(axis=1), 1, rtol=1e-5)
  np.testing.assert_allclose(
    out_BLEP.sum(axis=(2, 3)), VALID_BL.astype(float), rtol=1e-5
  )


def test_padding_and_other_sequences_change_nothing():
  out_BLD = apply()
  np.testing.assert_array_equal(out_BLD[~VALID_BL], 0)
  other_BLD = np.where(VALID_BL[..., None], X_BLD, 1e3)
  np.testing.assert_array_equal(apply(other_BLD), out_BLD)
  other_BLD = np.stack([X_BLD[0], RNG.normal(size=(L, D))])
  np.testing.assert_allclose(
    apply(other_BLD.astype(np.float32))[0], out_BLD[0], rtol=1e-5
  )


def test_the_order_of_the_tokens_does_not_matter():
  order_L = np.array([3, 1, 5, 0, 2, 4])
  np.testing.assert_allclose(
    apply(X_BLD[:, order_L], VALID_BL[:, order_L]),
    apply()[:, order_L],
    rtol=1e-4,
    atol=1e-6,
  )


def test_a_token_sees_later_tokens():
  """What the name not_causal is about."""
  assert not CONFIG.causal
  assert not CONFIG.not_causal
  later_BLD = X_BLD.copy()
  later_BLD[:, 3] += 1
  assert (np.abs(apply(later_BLD) - apply())[:, 0] > 1e-4).any()


def test_gradients_are_finite():
  """With a token of zeros, and a sequence without tokens."""
  graph, w = layer()
  valid_BL = np.stack([VALID_BL[0], np.zeros(L, bool)])

  def total(w, x_BLD):
    return jnp.sum(tiny.bind(graph, w).output(x_BLD, valid_BL) ** 2)

  by_w, by_x_BLD = jax.jit(jax.grad(total, argnums=(0, 1)))(w, X_BLD)
  for leaf in jax.tree.leaves(by_w):
    assert np.isfinite(leaf).all()
    assert (np.asarray(leaf) != 0).any()
  assert np.isfinite(by_x_BLD).all()
  np.testing.assert_array_equal(np.asarray(by_x_BLD)[1], 0)
  np.testing.assert_array_equal(np.asarray(by_x_BLD)[0, 2], 0)


def test_other_experts_and_slots_by_capacity():
  """6 tokens, factor 2 over 3 experts: 4 slots each."""
  config = dataclasses.replace(
    CONFIG, capacity_factor=2.0, experts=TwoMatrix(activation='gelu', bias=True)
  )
  assert config.num_slots(L) == 4
  assert config.num_slots(1) == 1
  assert CONFIG.num_slots(L) == 2
  graph, w = layer(config)
  assert w['phi_DEP'].shape == (D, 3, 4)
  assert w['routed']['w_in_EDF'].shape == (3, D, 4)
  assert np.isfinite(apply(config=config)).all()


def test_weights_at_the_start_and_their_axes():
  made = SoftMoE(CONFIG, D, L, 0.02, jax.random.key(0))
  assert made.scale[...] == 1
  for _, param in nnx.to_flat_state(nnx.state(made)):
    assert len(param.get_metadata()['axes']) == param[...].ndim
  assert np.std(made.routed['w_in_ED2F'][...]) < 0.03


def test_bfloat16_keeps_the_mixing_in_float32():
  graph, w = layer()
  out_BLD = _apply(graph, w, jnp.asarray(X_BLD, jnp.bfloat16), VALID_BL)
  assert out_BLD.dtype == jnp.bfloat16
  logits_BLEP = tiny.bind(graph, w).logits(jnp.asarray(X_BLD, jnp.bfloat16))
  assert logits_BLEP.dtype == jnp.float32


@pytest.mark.soak
def test_on_a_mesh():
  """Tokens over data and experts, weights over experts and fsdp: the same."""
  config = dataclasses.replace(CONFIG, num_experts=4)
  graph, w = layer(config, 6)
  mesh = tiny.mesh(8, data=2, fsdp=2, expert=2)
  made = nnx.eval_shape(lambda: SoftMoE(config, 6, L, 0.02, jax.random.key(0)))
  axes = {
    '/'.join(path): param.get_metadata()['axes']
    for path, param in nnx.to_flat_state(nnx.state(made))
  }
  split = jax.device_put(w, rules.shardings(axes, w, mesh))
  x_BLD = RNG.normal(size=(8, L, 6)).astype(np.float32)
  valid_BL = np.concatenate([VALID_BL] * 4)
  rows = rules.sharding(('batch',), mesh)
  got_BLD = _apply(
    graph, split, *jax.device_put((x_BLD, valid_BL), (rows, rows))
  )
  want_BLD = _apply(graph, w, x_BLD, valid_BL)
  np.testing.assert_allclose(got_BLD, want_BLD, rtol=1e-4, atol=1e-5)
