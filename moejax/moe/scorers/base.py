"""The contract of scorers: token vectors to scores, with their own weights."""

import dataclasses
from typing import Any

import flax.struct
import jax

from moejax.core import fields


@flax.struct.dataclass
class ScorerInput:
  """What a scorer may look at.

  Attributes:
    x_TD: token vectors, float32.
    token_T: int32 vocabulary ids.
    experts: weights of all routed experts, for a scorer that `reads_experts`;
      else empty.
    state_TR: what the scorer of the layer before handed on, zeros in the first
      layer; None for a router's extra scorers.
  """

  x_TD: jax.Array
  token_T: jax.Array
  experts: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
  state_TR: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Scorer(fields.Checked):
  """Token vectors to scores: the base of all scorers; owns weights.

  A scorer is a frozen dataclass whose fields are its config keys.
  """

  @property
  def reads_experts(self) -> bool:
    """Whether it looks at the experts' weights."""
    return False

  @property
  def state_width(self) -> int:
    """R, numbers of each token that it hands to the next layer's scorer."""
    return 0

  def init(
    self, key: jax.Array, width: int, num: int, std: float
  ) -> dict[str, Any]:
    """Weights by name: float32 `nnx.Param`s that name their axes.

    Args:
      key: random key.
      width: D.
      num: scores of a token.
      std: standard deviation of the model's matrices at the start.
    """
    raise NotImplementedError

  def __call__(self, w: dict[str, jax.Array], inputs: ScorerInput) -> jax.Array:
    """Scores [T, num] in float32, whatever the type of other computations."""
    raise NotImplementedError

  def state(self, w: dict[str, jax.Array], inputs: ScorerInput) -> jax.Array:
    """What it hands to the next layer's scorer, [T, R], float32; if R > 0."""
    raise NotImplementedError

  def balance_logits(
    self, w: dict[str, jax.Array], logits_TE: jax.Array
  ) -> jax.Array | None:
    """Logits whose softmax is P for balance losses; None: the router's P.

    They are made of its own scores, where a router asks for one score of each
    choice.
    """
    del w, logits_TE
    return None

  def after_step(self, w: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The weights to keep after an optimiser step, layers in front."""
    return w
