"""THOR: a random expert, in training the same one for all tokens."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract, replay
from moejax.moe.routers import hashing


def _each_token(inputs: contract.RouterInput) -> jax.Array:
  return inputs.index_T


def _each_sequence(inputs: contract.RouterInput) -> jax.Array:
  return inputs.index_T // inputs.row_length


BY = {'token': _each_token, 'sequence': _each_sequence}


@dataclasses.dataclass(frozen=True)
class Thor(contract.Router):
  """A random expert with weight 1; nothing is learned.

  THOR (arXiv 2110.04260): in training one expert, drawn uniformly for each
  layer and step, computes the whole batch; in evaluation each token or each
  sequence has a random expert. So training needs a dispatcher with room for
  all tokens at one expert: dropless, or capacity with factor E.

  The paper trains with two passes of independent draws and pulls their
  predictions together by a KL term; that is a matter of the training loss, not
  of the router. In its code evaluation differs from call to call; here it is a
  hash of (seed, layer, place in the batch), so that scores can be repeated.

  `prob_TE` is 1 / E, the distribution of the draw. Logits have no effect.

  Attributes:
    by: whether each token or each sequence has a random expert in evaluation.
    seed: of the choices in evaluation.
  """

  is_learned: ClassVar[bool] = False
  experts_are_alike: ClassVar[bool] = False
  follows_selection_bias: ClassVar[bool] = False
  replays: ClassVar[bool] = True
  keeps_experts: ClassVar[str] = (
    'it draws experts by number, without scores, so no expert matters more '
    'than another'
  )

  by: str = fields.named(BY, 'token')
  seed: int = fields.number(0, at_least=0)

  @property
  def reads_rows(self) -> bool:
    return self.by == 'sequence'

  @property
  def experts_per_token(self) -> float:
    return 1

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    num_tokens, num_experts = inputs.logits_TE.shape
    if inputs.training:
      expert = jax.random.randint(inputs.noise_key, (), 0, num_experts)
      expert_T = jnp.full(num_tokens, expert)
    else:
      place_T = BY[self.by](inputs)
      expert_T = hashing.below(num_experts, self.seed, inputs.layer, place_T)
    expert_T1, _ = replay.choice(inputs.replayed, expert_T[:, None])
    return contract.token_choice(
      inputs,
      expert_T1,
      jnp.ones((num_tokens, 1), jnp.float32),
      jnp.full((num_tokens, num_experts), 1 / num_experts, jnp.float32),
    )
