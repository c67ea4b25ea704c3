"""The best assignment of one expert to each token with equal loads.

`assign` takes one sequence of S tokens (vmap it over sequences) and has no
gradient.
"""

import math

import jax
import jax.numpy as jnp

from moejax.core import varying
from moejax.moe.routers import transport

# Costs are integers. A chain of moves costs less than 2^27, an imbalance costs
# 2^28, and twice FAR, the cost of an impossible move, still fits into int32.
PATH_BITS = 27
IMBALANCE = 2**28
FAR = 2**30 - 1

# The Sinkhorn iterations that give `assign` its first prices; the prices affect
# its speed, not its result.
START_TEMPERATURE = 0.01
START_ITERATIONS = 20


def assign(score_SE: jax.Array, valid_S: jax.Array) -> jax.Array:
  """The best assignment in which experts' loads differ by at most one.

  The result has the largest sum of scores among all assignments of the n valid
  tokens that give every expert n/E tokens, rounded down or up. If E divides n,
  this is BASE's linear assignment (arXiv 2103.16716, section 3.1).

  1. Scores are rounded to integers, so that sums are exact. Their range has 24
     bits, less one for each doubling of E beyond 8.
  2. A few Sinkhorn iterations give each expert a price, and every token takes
     the expert with the largest score minus price. Whatever the prices, no
     other assignment with these loads has a larger sum.
  3. A step moves one token from expert e to f along a chain of experts (a token
     from e to a, another from a to b, ..., another to f). The step takes the e,
     f and chain of least cost, where an imbalance of loads costs more than any
     chain. After each step the assignment is still the best for its loads. If
     no step has a negative cost, the assignment is the best of all (steepest
     descent of an M-convex function). At most S steps are needed, and thanks to
     the prices mostly 1% to 7% of that.

  Example, E=2, n=3:
    score_SE  [[5, 0], [4, 0], [3, 0]]   all prefer expert 0
    expert_S  [0, 0, 1]                  the third gives up least

  Args:
    score_SE: float32 scores.
    valid_S: bool.

  Returns:
    int32 experts, E for padding.
  """
  num_tokens, num_experts = score_SE.shape
  score_SE, price_E = _integers(score_SE, valid_S)
  expert_S = jnp.argmax(score_SE - price_E, axis=1)
  expert_S = jnp.where(valid_S, expert_S, num_experts).astype(jnp.int32)
  count = jnp.sum(valid_S)
  room = (count // num_experts, -(-count // num_experts))

  def body(carry):
    expert_S, (_, last, before_E), i = carry
    expert_S = _shift(score_SE, expert_S, last, before_E)
    return expert_S, _cheapest(score_SE, expert_S, room), i + 1

  start = (expert_S, _cheapest(score_SE, expert_S, room))
  expert_S, _, _ = jax.lax.while_loop(
    lambda carry: (carry[1][0] < 0) & (carry[2] < num_tokens),
    body,
    (*start, varying.like(jnp.int32(0), expert_S)),
  )
  return expert_S


def _integers(score_SE, valid_S):
  """Scores [S, E] and starting prices [E] as integers."""
  num_experts = score_SE.shape[1]
  bits = min(24, PATH_BITS - math.ceil(math.log2(max(num_experts, 2))))
  valid_S1 = valid_S[:, None]
  least = jnp.min(jnp.where(valid_S1, score_SE, jnp.inf))
  most = jnp.max(jnp.where(valid_S1, score_SE, -jnp.inf))
  share_SE = (score_SE - least) / jnp.maximum(most - least, 1e-30)
  share_SE = jnp.where(valid_S1, share_SE, 0.0)
  _, price_E = transport.sinkhorn(
    share_SE / START_TEMPERATURE, valid_S, -1.0, START_ITERATIONS
  )
  price_E = START_TEMPERATURE * price_E
  whole = lambda x: jnp.round(x * 2**bits).astype(jnp.int32)
  return whole(share_SE), whole(price_E)


def _cheapest(score_SE, expert_S, room):
  """The step of least cost.

  It is a shortest path between experts, by Bellman-Ford. The length of the edge
  from a to b is the least loss of score of a token that moves from a to b.

  Returns:
    The cost of the step, the last expert of its chain, and before_E, the expert
    before each on the shortest path to it (-1 where a path starts).
  """
  num_experts = score_SE.shape[1]
  low, high = room
  own_S1 = jnp.take_along_axis(
    score_SE, jnp.minimum(expert_S, num_experts - 1)[:, None], axis=1
  )
  step_EE = jax.ops.segment_min(
    own_S1 - score_SE, expert_S, num_segments=num_experts
  )
  load_E = jnp.bincount(expert_S, length=num_experts)
  from_E = jnp.where(
    load_E > high, -IMBALANCE, jnp.where(load_E > low, 0, FAR)
  ).astype(jnp.int32)
  to_E = jnp.where(
    load_E < low, -IMBALANCE, jnp.where(load_E < high, 0, FAR)
  ).astype(jnp.int32)

  def add(a, b):
    return jnp.where((a < FAR) & (b < FAR), a + b, FAR)

  def relax(carry):
    cost_E, before_E, _, i = carry
    via_EE = add(cost_E[:, None], step_EE)
    best_E = jnp.min(via_EE, axis=0)
    better_E = best_E < cost_E
    arg_E = jnp.argmin(via_EE, axis=0).astype(jnp.int32)
    return (
      jnp.where(better_E, best_E, cost_E),
      jnp.where(better_E, arg_E, before_E),
      jnp.any(better_E),
      i + 1,
    )

  start = (
    from_E,
    jnp.full(num_experts, -1, jnp.int32),
    jnp.bool_(True),
    jnp.int32(0),
  )
  cost_E, before_E, _, _ = jax.lax.while_loop(
    lambda carry: carry[2] & (carry[3] < num_experts),
    relax,
    tuple(varying.like(x, load_E) for x in start),
  )
  total_E = add(cost_E, to_E)
  return (
    jnp.min(total_E),
    jnp.argmin(total_E).astype(jnp.int32),
    before_E,
  )


def _shift(score_SE, expert_S, last, before_E):
  """expert_S after a step: one token moves along each link of the chain.

  Args:
    score_SE: integer scores.
    expert_S: experts before the step.
    last: the last expert of the chain, from `_cheapest`.
    before_E: the expert before each, from `_cheapest`.
  """

  def link(carry):
    expert_S, b, i = carry
    a = before_E[b]
    loss_S = jnp.where(expert_S == a, score_SE[:, a] - score_SE[:, b], FAR)
    return expert_S.at[jnp.argmin(loss_S)].set(b), a, i + 1

  # The bound on links matters only if scores are NaN: else the chain ends.
  num_experts = score_SE.shape[1]
  expert_S, _, _ = jax.lax.while_loop(
    lambda carry: (before_E[carry[1]] >= 0) & (carry[2] < num_experts),
    link,
    (expert_S, last, varying.like(jnp.int32(0), last)),
  )
  return expert_S
