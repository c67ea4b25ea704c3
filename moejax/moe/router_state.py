"""RouterState: what a balance part keeps from batch to batch."""

import flax.struct
import jax


@flax.struct.dataclass
class RouterState:
  """The state of one balance part in one layer, made of earlier batches.

  The state lies beside the layer's weights and is saved with them. No gradient
  reaches it and the optimiser does not change it: the balance part replaces it
  after every optimiser step.

  Attributes:
    selection_bias_E: float32, added to the scores by which experts are chosen
      and to nothing else; None for a part without a bias.
    kept: the rest of the state, float32 arrays by name.
  """

  selection_bias_E: jax.Array | None = None
  kept: dict[str, jax.Array] = flax.struct.field(default_factory=dict)

  @property
  def needed_bias(self) -> jax.Array:
    """The bias of a part that has one."""
    if self.selection_bias_E is None:
      raise ValueError('this part has no bias of the selection')
    return self.selection_bias_E

  @classmethod
  def of_arrays(cls, arrays: dict[str, jax.Array]) -> 'RouterState':
    """The state from its arrays by name, as they lie beside the weights."""
    kept = dict(arrays)
    return cls(kept.pop('selection_bias_E', None), kept)

  @property
  def arrays(self) -> dict[str, jax.Array]:
    """The state as arrays by name; the inverse of `of_arrays`."""
    if self.selection_bias_E is None:
      return dict(self.kept)
    return {'selection_bias_E': self.selection_bias_E, **self.kept}
