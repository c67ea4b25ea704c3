"""Replay: layers route tokens as was recorded, not as their routers choose.

A `Replay` holds the recorded experts of all layers of a model; each layer reads
its own, a `Replayed`. If the weights are recorded too, they are used; without
them the router gives the recorded experts its own weights, through which
gradients flow.
"""

from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import errors

NOWHERE = -1  # the expert id of a rank that has no expert


@flax.struct.dataclass
class Replayed:
  """A recorded choice of experts for the T tokens of one layer.

  Attributes:
    expert_TK: int32, the experts of each token in the order of the list of
      assignments; `NOWHERE` for none.
    weight_TK: float32, the weights of their outputs; None leaves the weights to
      the router.
    dropped_TK: bool, assignments that have a weight and are not computed; None
      for none.
  """

  expert_TK: jax.Array
  weight_TK: jax.Array | None = None
  dropped_TK: jax.Array | None = None

  @property
  def is_used(self) -> jax.Array:
    """Whether the rank has an expert, bool [T, K]."""
    return self.expert_TK >= 0

  @property
  def ids(self) -> jax.Array:
    """The experts [T, K], with 0 for `NOWHERE`, an id that can be looked up."""
    return jnp.maximum(self.expert_TK, 0)

  def chosen(self, num_experts: int) -> jax.Array:
    """Whether a token has an expert, bool [T, E]."""
    hit_TKE = self.expert_TK[..., None] == jnp.arange(num_experts)
    return jnp.any(hit_TKE, axis=1)


def choice(
  replayed: Replayed | None, expert_TK: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
  """The recorded experts in place of `expert_TK`, if there are any.

  Returns:
    The experts, with 0 where the record has none, and whether it has one;
    without a record `expert_TK` and None.

  Raises:
    InputError: the record has another number of experts per token.
  """
  if replayed is None:
    return expert_TK, None
  k, recorded = expert_TK.shape[1], replayed.expert_TK.shape[1]
  if k != recorded:
    raise errors.InputError(
      f'the replayed routes have {recorded} experts per token, but the router '
      f'chooses {k}; give {k}, with {NOWHERE} for none'
    )
  return replayed.ids, replayed.is_used


def weights(replayed: Replayed | None, weight_TK: jax.Array) -> jax.Array:
  """The recorded weights in place of `weight_TK`, if there are any."""
  if replayed is None:
    return weight_TK
  if replayed.weight_TK is not None:
    weight_TK = replayed.weight_TK
  return jnp.where(replayed.is_used, weight_TK, 0.0)


@flax.struct.dataclass
class Replay:
  """The recorded choices of all N layers with experts, in their order.

  The ids are [tokens, layers, k], the layout in which vLLM, NeMo RL and tunix
  record routings.

  Attributes:
    expert_BLNK: int32, ids of experts; `NOWHERE` (-1) for none.
    weight_BLNK: float32, weights of the experts' outputs, or None: the routers
      weigh the recorded experts, and gradients reach the routers.
    dropped_BLNK: bool, assignments that were weighed but not computed, for want
      of room; None for none. The dispatcher's own limit holds besides.
  """

  expert_BLNK: jax.Array
  weight_BLNK: jax.Array | None = None
  dropped_BLNK: jax.Array | None = None

  @classmethod
  def of(cls, routes: Any, *, weights: bool = False) -> Self:
    """The replay of the routes that a model has recorded.

    Args:
      routes: `Routes` of N layers, arrays [N, B, L, K].
      weights: whether the recorded weights are used too.
    """
    by_token = lambda x_NBLK: jnp.moveaxis(x_NBLK, 0, 2)
    return cls(
      by_token(routes.expert_BLK),
      by_token(routes.weight_BLK) if weights else None,
      by_token(routes.dropped_BLK),
    )

  def layers(self, index: slice) -> Replayed:
    """The choices of some layers, arrays [layers, B, L, K].

    Args:
      index: of layers, among those with experts.
    """
    return jax.tree.map(
      lambda x_BLNK: jnp.moveaxis(x_BLNK, 2, 0)[index],
      Replayed(self.expert_BLNK, self.weight_BLNK, self.dropped_BLNK),
    )

  def check(self, shape: tuple[int, int], layers: int, choices: int) -> None:
    """Raises InputError for a replay that does not fit a model and its batch.

    Ids are compared with the number of choices only outside `jax.jit`, where
    they are known.

    Args:
      shape: rows and length of the batch.
      layers: number of layers with experts.
      choices: number of choices of a router.
    """
    want = (*shape, layers)
    if self.expert_BLNK.ndim != 4 or self.expert_BLNK.shape[:3] != want:
      raise errors.InputError(
        f'replay.expert_BLNK has the shape {self.expert_BLNK.shape}, but the '
        f'batch has {shape[0]} rows of {shape[1]} tokens and the model '
        f'{layers} layers with experts: the shape must be '
        f'({shape[0]}, {shape[1]}, {layers}, k)'
      )
    if not jnp.issubdtype(self.expert_BLNK.dtype, jnp.integer):
      raise errors.InputError(
        f'replay.expert_BLNK has the type {self.expert_BLNK.dtype}; ids of '
        'experts are integers'
      )
    for name in ('weight_BLNK', 'dropped_BLNK'):
      array = getattr(self, name)
      if array is not None and array.shape != self.expert_BLNK.shape:
        raise errors.InputError(
          f'replay.{name} has the shape {array.shape}, but '
          f'replay.expert_BLNK has {self.expert_BLNK.shape}: they must be the '
          'same'
        )
    if isinstance(self.expert_BLNK, jax.core.Tracer):
      return
    # Ids of a batch that is spread over hosts are not on any of them.
    if getattr(self.expert_BLNK, 'is_fully_addressable', True):
      check_ids(np.asarray(self.expert_BLNK), choices)


def check_ids(expert_BLNK: np.ndarray, choices: int) -> None:
  """Raises InputError for ids that no expert has, and for an expert twice.

  Args:
    expert_BLNK: ids of experts.
    choices: number of choices of a router.
  """
  wrong = np.argwhere((expert_BLNK < NOWHERE) | (expert_BLNK >= choices))
  if len(wrong):
    row, token, layer, _ = wrong[0]
    expert = expert_BLNK[tuple(wrong[0])]
    raise errors.InputError(
      f'replay.expert_BLNK has the expert {expert} in row {row}, token '
      f'{token}, layer {layer} of those with experts; the ids are 0 to '
      f'{choices - 1}, and {NOWHERE} for none'
    )
  ordered = np.sort(expert_BLNK, axis=-1)
  twice = (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)
  if twice.any():
    row, token, layer, rank = np.argwhere(twice)[0]
    expert = ordered[row, token, layer, rank]
    raise errors.InputError(
      f'replay.expert_BLNK has the expert {expert} twice in row {row}, token '
      f'{token}, layer {layer} of those with experts; a token goes to an '
      'expert once'
    )
