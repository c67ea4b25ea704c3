"""The contract of scorers, which turn token vectors into scores."""

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
    state_TR: float32 state from the scorer of the layer before, zeros in the
      first layer; None for a router's extra scorers.
  """

  x_TD: jax.Array
  token_T: jax.Array
  experts: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
  state_TR: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Scorer(fields.Checked):
  """Turns token vectors into scores: the base of all scorers.

  A scorer is a frozen dataclass whose fields are its config keys. It defines
  its weights by `init`; the layer stores them and passes them as `w`.
  """

  @property
  def reads_token_ids(self) -> bool:
    """Whether the scorer reads vocabulary ids."""
    return False

  @property
  def reads_experts(self) -> bool:
    """Whether the scorer reads the experts' weights."""
    return False

  @property
  def state_width(self) -> int:
    """R, the numbers per token that it hands to the next layer's scorer."""
    return 0

  def init(
    self, key: jax.Array, width: int, num: int, std: float
  ) -> dict[str, Any]:
    """Weights by name: float32 `nnx.Param`s that name their axes.

    Args:
      key: random key.
      width: D.
      num: number of scores of a token.
      std: standard deviation of the model's matrices at the start.
    """
    raise NotImplementedError

  def __call__(self, w: dict[str, jax.Array], inputs: ScorerInput) -> jax.Array:
    """Scores [T, num] in float32, whatever the type of other computations."""
    raise NotImplementedError

  def state(self, w: dict[str, jax.Array], inputs: ScorerInput) -> jax.Array:
    """State for the next layer's scorer, float32 [T, R]; called if R > 0."""
    raise NotImplementedError

  def with_fixed_sizes(self, num: int) -> 'Scorer':
    """The scorer of the same weights when the number of scores changes.

    A field that means "as the number of scores says" gets its value.

    Args:
      num: number of scores of a token, so far.
    """
    del num
    return self

  def balance_logits(
    self, w: dict[str, jax.Array], logits_TE: jax.Array
  ) -> jax.Array | None:
    """Logits whose softmax is P for balance losses; None: the router's P.

    They have no effect with a router whose number of logits is not E.

    Args:
      w: weights of the scorer.
      logits_TE: the logits that the router read.
    """
    del w, logits_TE
    return None

  def after_step(self, w: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The weights after an optimiser step, constrained; layers in front."""
    return w
