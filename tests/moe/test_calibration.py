"""Calibration sums of one block, beside a slow loop over tokens and experts."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import expert_statistics, experts, references, tiny

from moejax.compress.statistics import SUMS
from moejax.model import block
from moejax.moe import calibration, feed_forward
from moejax.moe.balance import BALANCE
from moejax.moe.compute import implementations
from moejax.moe.compute.staged import StagedCompute
from moejax.moe.dispatchers.capacity import Capacity
from moejax.moe.experts import EXPERTS
from moejax.moe.routers.group_limited import GroupLimited
from moejax.moe.routers.scores import LEAST_LOGIT
from moejax.moe.routers.top_k import TopK
from moejax.moe.routers.top_p import TopP

B, L, D, E = 2, 6, 3, 4
BIAS = BALANCE['loss_free']()

# By case: kind of experts, changes of the layer's config.
CASES = {
  'softmax': ('swiglu', {'router': TopK(k=2), 'num_shared': 1}),
  'sigmoid with biases': (
    'two_matrix with biases',
    {
      'router': TopK(k=2, score='sigmoid', renormalise=True, scale=2.5),
      'balance': (BIAS,),
    },
  ),
  'gpt-oss': ('clamped_swiglu', {'router': TopK(k=3, after=True)}),
  'groups': (
    'swiglu',
    {
      'router': GroupLimited(k=2, score='sigmoid', num_groups=2, scale=1.5),
      'balance': (BIAS,),
    },
  ),
  'any number': ('swiglu', {'router': TopP(p=0.6), 'num_shared': 0}),
  'dropped': (
    'swiglu',
    {'router': TopK(k=2), 'dispatcher': Capacity(factor=0.5)},
  ),
  'scaled input': (
    'swiglu',
    {'router': TopK(k=1, score='sigmoid', scales_input=True)},
  ),
}
# Its score, scale and biases are those of another case, and
# routers/test_group_limited.py has the groups.
SOAK = {'groups'}
BIAS_E = np.array([0.3, -0.2, 0.1, 0.0])


def config_of(kind, changes):
  names = {'two_matrix with biases': EXPERTS['two_matrix'](bias=True)}
  kind_config = names.get(kind) or EXPERTS[kind]()
  fixed = {'num_shared': 0, 'expert_width': 6, 'experts': kind_config}
  return tiny.model_config(
    moe={**fixed, **changes}, width=D, num_heads=1, num_kv_heads=1, head_dim=2
  )


def made(kind, changes, seed=0):
  """A block whose attention adds nothing, and random tokens."""
  config = config_of(kind, changes)
  graph, weights = tiny.module(
    lambda: block.Block(config, tiny.mesh(), jax.random.key(0), moe=True),
    seed,
    std=0.7,
  )
  weights['attention']['w_o_HKD'][:] = 0
  drawn = experts.random(kind, E, seed, np.float32)
  assert {n: x.shape for n, x in weights['ffn']['routed'].items()} == {
    n: x.shape for n, x in drawn.items()
  }
  weights['ffn']['routed'] = drawn
  for state in weights['ffn'].get('router_state', {}).values():
    state['selection_bias_E'] = BIAS_E.astype(np.float32)
  rng = np.random.default_rng(seed)
  x_BLD = rng.normal(size=(B, L, D)).astype(np.float32)
  segment_BL = np.ones((B, L), np.int32)
  segment_BL[1, 4:] = 0
  return types.SimpleNamespace(**locals())


def measured(case, outputs=True):
  """The sums of the block, [1, ...] by name of the statistics."""
  position_BL = np.broadcast_to(np.arange(L, dtype=np.int32), (B, L))
  angles = case.config.rope.angles(
    jnp.asarray(position_BL), case.config.heads.rotary_dim(case.config), None
  )
  tokens = block.TokenContext(
    jnp.asarray(case.segment_BL),
    jnp.asarray(position_BL),
    jnp.arange(B * L).reshape(B, L),
    jnp.zeros((B, L), jnp.int32),
    angles,
    calibration.request(output_gram=outputs),
  )

  @jax.jit
  def run(weights, x_BLD):
    bound = tiny.bind(case.graph, weights)
    previous = feed_forward.no_previous_layer(case.config.moe, B, L)
    return bound(x_BLD, previous, tokens, None)[2]

  record = jax.device_get(run(case.weights, case.x_BLD))
  assert record.routes is None
  return {
    name.replace('_E', '_NE'): x[None] for name, x in record.calibration.items()
  }


def gates(router, logits_E):
  """{expert: gate} of one token, best first, by the papers' formulas."""
  softmax_E = np.exp(logits_E) / np.exp(logits_E).sum()
  if isinstance(router, TopP):
    order = np.argsort(-softmax_E)
    enough = int(np.searchsorted(np.cumsum(softmax_E[order]), router.p)) + 1
    return {e: softmax_E[e] for e in order[:enough]}
  is_sigmoid = router.score == 'sigmoid'
  score_E = 1 / (1 + np.exp(-logits_E)) if is_sigmoid else softmax_E
  choice_E = score_E + (BIAS_E if router.k == 2 and is_sigmoid else 0)
  if isinstance(router, GroupLimited):
    best = np.argmax([choice_E[:2].max(), choice_E[2:].max()])
    choice_E = np.where(np.arange(E) // 2 == best, choice_E, -np.inf)
  chosen = np.argsort(-choice_E)[: router.k]
  gate_E = score_E * router.scale
  if router.renormalise or router.after:
    gate_E = gate_E / score_E[chosen].sum()
  return {e: gate_E[e] for e in chosen}


def places(choices, capacity):
  """The assignments (token, expert) of a row that find room: rank by rank."""
  taken, kept = dict.fromkeys(range(E), 0), set()
  for rank in range(2):
    for token, experts_of in enumerate(choices):
      expert = list(experts_of)[rank] if experts_of else None
      if expert is not None:
        if taken[expert] < capacity:
          kept.add((token, expert))
        taken[expert] += 1
  return kept


def expected(case):
  """The statistics by a loop over tokens and their experts."""
  moe, weights = case.config.moe, case.weights
  events, logits, out_gram = [], [], np.zeros((E, E))
  for row in range(B):
    real = [t for t in range(L) if case.segment_BL[row, t]]
    h_LD = case.x_BLD[row].astype(float)
    rms = np.sqrt((h_LD**2).mean(axis=1, keepdims=True) + case.config.norm_eps)
    in_LD = h_LD / rms * weights['norm_ffn']['scale_D']
    logits_LE = in_LD @ weights['ffn']['router']['w_DE'].astype(float)
    choices = [
      gates(moe.router, logits_LE[t]) if t in real else {} for t in range(L)
    ]
    kept = {(t, e) for t in real for e in choices[t]}
    if isinstance(moe.dispatcher, Capacity):
      # Half of 2 * 6 assignments over 4 experts, rounded up.
      kept = places(choices, 2)
    run = lambda x_D: experts.outputs(
      case.kind, references.float64(case.drawn), x_D[None]
    )[:, 0]
    for t in real:
      y_ED = run(in_LD[t])
      out_gram += y_ED @ y_ED.T
      added_ED = {}
      for e, gate in choices[t].items():
        if (t, e) in kept:
          scaled = moe.router is not None and getattr(
            moe.router, 'scales_input', False
          )
          added_ED[e] = run(gate * in_LD[t])[e] if scaled else gate * y_ED[e]
      total_D = h_LD[t] + sum(added_ED.values())
      cos = (
        h_LD[t] @ total_D / np.linalg.norm(h_LD[t]) / np.linalg.norm(total_D)
      )
      events.append((
        max(0, 1 - cos),
        {
          e: (choices[t][e], np.linalg.norm(added_D) / choices[t][e])
          for e, added_D in added_ED.items()
        },
      ))
      logits.append(logits_LE[t])
  statistics = expert_statistics.of_events(events, E, logits)
  return dataclasses.replace(statistics, output_gram_NEE=out_gram[None])


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=pytest.mark.soak if name in SOAK else ())
    for name in CASES
  ],
)
def test_the_sums_are_those_of_a_loop_over_tokens_and_experts(name):
  case = made(*CASES[name])
  got, want = measured(case), expected(case)
  if name == 'dropped':
    assert want.count_NE.sum() < 2 * 10
  for field in (*SUMS, 'output_gram_NEE'):
    tiny.assert_close(got[field], getattr(want, field), rtol=2e-4)


def test_a_place_without_an_expert_has_no_logit():
  """The router sees -1e30 there, whose square is no float32."""
  logits_BLE = jnp.array([[[2.0, 1.0, LEAST_LOGIT], [3.0, 0.0, LEAST_LOGIT]]])
  first_BLK = jnp.zeros((1, 2, 1))
  routes = types.SimpleNamespace(
    expert_BLK=first_BLK.astype(jnp.int32),
    weight_BLK=first_BLK + 1,
    norm_BLK=first_BLK + 1,
    dropped_BLK=first_BLK > 0,
    logits_BLE=logits_BLE,
    gram_BEE=None,
  )
  x_BLD, valid_BL = jnp.ones((1, 2, D)), jnp.ones((1, 2), bool)
  sums = calibration.of(routes, x_BLD, x_BLD, valid_BL, 3)
  np.testing.assert_array_equal(
    sums['logit_gram_EE'], [[13, 2, 0], [2, 1, 0], [0, 0, 0]]
  )


def test_outputs_are_compared_only_if_asked_for():
  assert 'output_gram_NEE' not in measured(made(*CASES['softmax']), False)


def test_a_turn_that_is_small_keeps_its_digits():
  """1 - cos(x, x + d) is |d|^2 / 2 |x|^2 for a small d at a right angle."""
  x_BLD = np.array([[[1000.0, 0], [1, 0], [1, 0], [0, 0]]], np.float32)
  added_BLD = np.array([[[0, 0.1], [-2, 0], [-1, 0], [1, 1]]], np.float32)
  got_BL = calibration.turn(x_BLD, added_BLD)
  # The other way round; to nothing and from nothing, where cos counts as 0.
  tiny.assert_close(got_BL, np.array([[0.5e-8, 2, 1, 1]]), rtol=1e-4)


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'gpu'])
def test_every_platform_has_an_implementation_with_stages(platform):
  config = tiny.MODEL.moe
  stages = implementations.choose_staged(config, platform)
  assert isinstance(stages, StagedCompute)
