"""FEED_FORWARDS: the feed-forwards of an encoder's layers, by name.

dense     two matrices with biases: every token passes them
experts   a mixture of such feed-forwards, any of `moe`: each token is routed
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from moejax.core import errors, fields
from moejax.moe import after_step, balance
from moejax.moe.balance.base import Balance
from moejax.moe.config import MoEConfig
from moejax.moe.contract import Router
from moejax.moe.experts import EXPERTS
from moejax.moe.experts.two_matrix import TwoMatrix
from moejax.moe.feed_forward import PreviousLayer, Record, TokenInfo
from moejax.moe.feed_forward import no_previous_layer as none_before
from moejax.moe.layer import MoE
from moejax.moe.routers import ROUTERS
from moejax.vision import layers

Weights = dict[str, Any]


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
  """Errors of experts name keys below `path`, not below `model.moe`."""
  try:
    yield
  except errors.InputError as e:
    raise errors.InputError(str(e).replace('model.moe.', f'{path}.')) from None


Result = tuple[jax.Array, PreviousLayer | None, Record]


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The feed-forward that a kind stands in for.

  Attributes:
    width: of its input.
    hidden: between its matrices.
    out: of its output.
    activation: a name in `activations.ACTIVATIONS`.
    init_std: standard deviation of its matrices at the start.
  """

  width: int
  hidden: int
  out: int
  activation: str
  init_std: float


@dataclasses.dataclass(frozen=True)
class Dense(fields.Checked):
  """Two matrices with biases and an activation between them."""

  def check(self, sizes: Sizes) -> None:
    """Raises InputError if values do not fit together, or `sizes`.

    Messages begin with a key of this node.
    """

  def module(self, sizes: Sizes, mesh: Mesh, key: jax.Array) -> nnx.Module:
    """The module of one layer."""
    return layers.FeedForward(
      (sizes.width, sizes.hidden, sizes.out),
      sizes.activation,
      sizes.init_std,
      mesh.devices.flat[0].platform,
      key,
    )

  def begin(self, stack: nnx.Module) -> None:
    """Changes the weights of a new stack of layers in place."""

  def no_previous_layer(self, rows: int, length: int) -> PreviousLayer | None:
    """What the first layer reads of the one before it."""
    del rows, length
    return None

  def apply(
    self,
    module: Callable[..., Any],
    x_BND: jax.Array,
    tokens: TokenInfo,
    previous: PreviousLayer | None,
    key: jax.Array | None,
    layer: jax.Array | int,
  ) -> Result:
    """Runs the module of a layer; arguments and result as of `FeedForward`."""
    del tokens, key, layer
    return module(x_BND), previous, Record()


@dataclasses.dataclass(frozen=True)
class AsDense(fields.Checked):
  """Experts that are feed-forwards as the dense one is.

  Two matrices with biases, and the dense feed-forward's activation.
  """


VISION_EXPERTS: Mapping[str, type] = {'as_dense': AsDense, **EXPERTS}
# How the losses of layers become one.
OVER_LAYERS = ('mean', 'sum')


@dataclasses.dataclass(frozen=True)
class Mixture(MoEConfig):
  """A mixture of experts in place of a feed-forward: LibMoE's layers.

  Keys, routers, balance parts and shared experts are those of `model.moe`. The
  defaults are LibMoE's SMoE (arXiv 2411.00918): 6 experts, each a copy of the
  dense feed-forward, of which a token uses 3 with weights that sum to 1; the
  balance loss of first choices with weight 0.01 and the z-loss with 0.001. An
  image is a sequence: its tokens compete where a router lets tokens compete.

  Attributes:
    num_experts: routed experts.
    expert_width: hidden width of one expert; 0: that of the dense feed-forward.
    experts: kind of experts.
    router: an entry of ROUTERS that does not choose by vocabulary ids.
    balance: balance losses and bias rules.
    over_layers: 'mean' divides the sum of the layers' losses by their number,
      as LibMoE does; 'sum' adds them, as `model.moe` does.
    routers_start_equal: whether the routers of all layers start with the same
      weights, which LibMoE draws from one seed in every layer.
  """

  num_experts: int = fields.number(6, at_least=1, at_most=10**6)
  expert_width: int = fields.number(
    0, at_least=0, note='0: that of the dense feed-forward'
  )
  experts: Any = fields.choice(VISION_EXPERTS, AsDense())
  router: Router = fields.choice(
    ROUTERS, ROUTERS['top_k'](k=3, renormalise=True)
  )
  balance: tuple[Balance, ...] = fields.choices(
    balance.BALANCE,
    (balance.BALANCE['first_choice'](), balance.BALANCE['z_loss']()),
  )
  over_layers: str = fields.named(OVER_LAYERS, 'mean')
  routers_start_equal: bool = False

  def resolved(self, sizes: Sizes) -> 'Mixture':
    """This config with the sizes and experts that stand for the dense ones."""
    experts = self.experts
    if isinstance(experts, AsDense):
      experts = TwoMatrix(bias=True, activation=sizes.activation)
    width = self.expert_width or sizes.hidden
    return dataclasses.replace(self, expert_width=width, experts=experts)

  def check(self, sizes: Sizes | None = None) -> None:
    """Raises InputError; without `sizes`, of what `resolved` returned."""
    if sizes is not None:
      self.resolved(sizes).check()
      return
    if self.experts_by_layer:
      raise errors.InputError(
        f'experts_by_layer={self.experts_by_layer}: the layers of an encoder '
        'have equally many experts; leave it out'
      )
    name = fields.chosen(self, 'router')
    scorers = self.router.extra_scorers(self.num_choices).values()
    ids = self.router.reads_token_ids or any(
      scorer.reads_token_ids for scorer, _ in scorers
    )
    if ids or self.scorer.reads_token_ids:
      part = f'router={name}' if ids else 'scorer=token_embedding'
      raise errors.InputError(
        f'{part} chooses experts by vocabulary ids, which the patches of an '
        'image do not have: set router=top_k and scorer=linear, say'
      )
    if getattr(self.expert_parallel, 'overflow', '') == 'repeat':
      raise errors.InputError(
        'expert_parallel.overflow=repeat repeats a step for the experts of the '
        'decoder alone: set dropless'
      )
    super().check()

  def module(self, sizes: Sizes, mesh: Mesh, key: jax.Array) -> MoE:
    """See `Dense`."""
    return MoE(
      self.resolved(sizes),
      sizes.width,
      sizes.init_std,
      mesh,
      key,
      out=sizes.out,
    )

  def begin(self, stack: Any) -> None:
    """See `Dense`."""
    if self.routers_start_equal:
      params = nnx.state((stack.router, stack.extra_scorers))
      equal = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), params)
      nnx.update((stack.router, stack.extra_scorers), equal)

  def no_previous_layer(self, rows: int, length: int) -> PreviousLayer | None:
    """See `Dense`."""
    return none_before(self, rows, length)

  def apply(
    self,
    module: Callable[..., Any],
    x_BND: jax.Array,
    tokens: TokenInfo,
    previous: PreviousLayer | None,
    key: jax.Array | None,
    layer: jax.Array | int,
  ) -> Result:
    """See `Dense`."""
    return module(x_BND, tokens, previous, key, layer)

  def losses(
    self, sums: dict[str, Any]
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """All balance losses of the layers, and each by name.

    Args:
      sums: by name of the part, its sums over the global batch, layers in
        front: those of the layers that were computed.
    """
    total, by_name = balance.total(self.balance, sums)
    if self.over_layers == 'mean':
      total = sum(by_name.values(), jnp.zeros(()))
    return total, by_name

  def after_step(self, old: Weights, new: Weights, record: Record) -> Weights:
    """The layers' weights after a step; see `moe.after_step`.

    The state of layers that were not computed stays as it is.

    Args:
      old: the weights before the step, layers in front.
      new: the weights that the optimiser returned.
      record: of the layers that were computed, the first ones.
    """
    state = jax.tree.leaves(old.get('router_state', {}))
    done = jax.tree.leaves(record.stats)[0].shape[0]
    if not state or done == len(state[0]):
      return after_step.apply(self, old, new, record.balance)
    first = lambda tree: jax.tree.map(lambda x: x[:done], tree)
    rest = lambda tree: jax.tree.map(lambda x: x[done:], tree)
    begun = after_step.apply(self, first(old), first(new), record.balance)
    others = after_step.apply(self, {}, rest(new), {})
    others['router_state'] = rest(old['router_state'])
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), begun, others)


FEED_FORWARDS: Mapping[str, type] = {'dense': Dense, 'experts': Mixture}
