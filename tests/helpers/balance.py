"""Routings by hand, for balance losses, their states and statistics."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from helpers import tiny
from moejax.moe import contract
from moejax.moe.balance import BALANCE, load, zero_computation

# Three tokens of four experts, from which most worked numbers are made.
L0 = np.array([
  [2.0, 1.0, 0.0, -1.0],
  [0.0, 1.0, 2.0, 1.5],
  [1.0, 1.5, 0.5, 0.0],
])


def softmax(x):
  x = np.exp(x - np.max(x, axis=-1, keepdims=True))
  return x / x.sum(axis=-1, keepdims=True)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def best(score_TE, k):
  """The k best of each token, of equals the first."""
  return np.argsort(-score_TE, axis=-1, kind='stable')[:, :k]


def problem(prob_TE, expert_TK, valid_T=None, row_length=None, **more):
  """What a balance part observes when tokens choose these experts.

  `more` are fields of RouterInput, weight_TK and extra, where they matter.
  """
  prob_TE = jnp.asarray(prob_TE, jnp.float32)
  router_input = tiny.router_input(
    more.get('logits_TE', jnp.zeros(prob_TE.shape)),
    valid_T=valid_T,
    row_length=row_length,
    selection_bias_E=more.get('selection_bias_E'),
    own_state=more.get('own_state'),
  )
  expert_TK = jnp.asarray(expert_TK)
  extra = {
    name: jnp.asarray(x, jnp.float32)
    for name, x in more.get('extra', {}).items()
  }
  routing = contract.token_choice(
    router_input,
    expert_TK,
    jnp.asarray(more.get('weight_TK', np.ones(expert_TK.shape)), jnp.float32),
    prob_TE,
    extra,
  )
  return router_input, routing


def observe(balance, router_input, routing):
  """The sums of a balance part, by default with its initial state."""
  if router_input.own_state is None:
    start = balance.initial_state(routing.prob_TE.shape[1])
    router_input = dataclasses.replace(router_input, own_state=start)
  return balance.observe(router_input, routing)


@functools.partial(jax.jit, static_argnums=0)
def value(balance, router_input, routing):
  """The loss of one balance part on all tokens."""
  return balance.loss(observe(balance, router_input, routing))


def loss(balance, *args, **more):
  """The loss of one balance part on the routing of `problem`."""
  return float(value(balance, *problem(*args, **more)))


def top(logits_TE, k, **more):
  """The problem of softmax top-k."""
  prob_TE = softmax(logits_TE)
  return problem(prob_TE, best(prob_TE, k), logits_TE=logits_TE, **more)


# Every balance part, with fields that leave something to balance.
PARTS = {
  **{name: cls() for name, cls in BALANCE.items()},
  'device_level': load.DeviceLevel(num_groups=5),
  'communication': load.Communication(num_groups=5, groups_per_token=2),
  'weighted': zero_computation.Weighted(num_zero=2),
  'groups': zero_computation.Groups(num_groups=3, num_zero=2),
}


def rich(rows=(0, 1, 2, 3), logits_TE=None):
  """Rows of six tokens, five experts, with every input that any part reads.

  Each row prefers other experts, and has some padding.
  """
  rows = list(rows)
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(4, 6, 5)) + 2 * rng.normal(size=(4, 1, 5))
  valid = np.arange(6) < np.array([6, 2, 5, 3])[:, None]
  of_tokens = rng.uniform(size=(3, 4, 6))
  per_expert = rng.uniform(size=(4, 4, 6, 5))
  if logits_TE is None:
    logits_TE = logits[rows].reshape(-1, 5)
  prob_TE = jax.nn.softmax(jnp.asarray(logits_TE, jnp.float32))
  flat = lambda x: x[rows].reshape(-1, *x.shape[2:])
  expert_TK = best(flat(logits), 2)
  names = ['folded_TE', 'stable_TE', 'load_TE', 'inner_TE']
  extra = dict(zip(names, map(flat, per_expert), strict=True))
  names = ['null_T', 'selector_entropy_T', 'unreachable_T']
  extra |= dict(zip(names, map(flat, of_tokens), strict=True))
  extra |= {
    'copies_TE': np.round(2 * extra['folded_TE']),
    'distill_T': extra['null_T'] + 1,
    'gate_TE': prob_TE**2,
    'outer_TG': jax.nn.relu(prob_TE[:, :2] - 0.1),
    'relu_TE': jax.nn.relu(prob_TE - 0.1),
    'unbiased_TK': best(extra['load_TE'], 2),
  }
  router_input, routing = problem(
    prob_TE,
    expert_TK,
    flat(valid),
    row_length=6,
    logits_TE=logits_TE,
    extra=extra,
  )
  answers_EE = rng.uniform(size=(5, 5)).astype(np.float32)
  router_input = dataclasses.replace(
    router_input, responses_EE=jnp.asarray(answers_EE)
  )
  # An id of 5, nowhere, reads 0.
  weight_A = prob_TE.at[routing.token_A, routing.expert_A].get(
    mode='fill', fill_value=0
  )
  return router_input, dataclasses.replace(routing, weight_A=weight_A)


def max_violation(count_E):
  """(largest load - mean) / mean: arXiv 2408.15664, equation 4."""
  count_E = np.asarray(count_E)
  return (count_E.max() - count_E.mean()) / count_E.mean()
