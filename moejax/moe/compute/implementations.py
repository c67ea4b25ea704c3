"""From tokens and a routing to the experts' output: in stages, or fused.

Stages works for every dispatcher and every kind of expert. Fused does the same
in one loop for the case that matters most on CPU. Which one, and which grouped
matmul the stages use, is `moe.grouped_matmul` in a config:

  auto     the first of AUTO that fits
  obvious  the reference dispatcher and matmul, whatever the dispatcher; what a
           dispatcher drops is dropped
  fused    one loop; needs the dropless dispatcher and SwiGLU experts
  fused_megablox  the kernels of megablox with a gradient of their own; the same
  <name>   stages with that entry of GROUPED_MATMULS
"""

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from moejax.core import errors, table
from moejax.moe import contract, experts
from moejax.moe.compute import fused_swiglu, kernel_swiglu, permute
from moejax.moe.compute.grouped_matmul import GROUPED_MATMULS
from moejax.moe.config import MoEConfig
from moejax.moe.dispatchers import dropless, reference
from moejax.moe.experts import base


class Compute(Protocol):
  """Routed experts over local tokens."""

  dispatcher: contract.Dispatcher

  def __call__(
    self,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
  ) -> contract.Output:
    """Args: weights of `num_experts` experts; other ids go nowhere.

    With `chained` weights the output has a `chain` to hand on.
    """
    ...

  def chained(self, weights: dict[str, jax.Array]) -> Any:
    """What a call can take as `weights['chain']`, of prepared weights; or None.

    It is the weights once more. Calls that hand them on, each to the next, add
    their gradients to one array; the weights beside it have none then.
    """
    ...

  def prepare(self, weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The weights as a call likes them, made once for many calls.

    A call takes them as they were, too, and this takes its own result.
    """
    ...


def _side_by_side(weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Gate and up in one dimension: on TPU a dimension of 2 there is slow."""
  if 'w_in_ED2F' not in weights:
    return weights
  w_in = weights['w_in_ED2F']
  return {**weights, 'w_in_ED2F': w_in.reshape(*w_in.shape[:2], -1)}


@dataclasses.dataclass(frozen=True)
class Stages:
  """Dispatch, experts, combine, one after the other."""

  dispatcher: contract.Dispatcher
  experts: experts.SwiGLU
  multiply: Any

  def __call__(
    self,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
  ) -> contract.Output:
    routing = _among(routing, num_experts)
    x_RD, size_E, note = self.dispatcher.dispatch(
      x_TD, routing, num_experts, self.multiply.row_multiple
    )
    y_RD = self.experts(weights, x_RD, size_E, self.multiply)
    out_TD = self.dispatcher.combine(y_RD, routing, note, x_TD.shape[0])
    return contract.Output(out_TD, note.row_A < x_RD.shape[0])

  def prepare(self, weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return _side_by_side(weights)

  def chained(self, weights: dict[str, jax.Array]) -> None:
    del weights


@dataclasses.dataclass(frozen=True)
class Fused:
  """The same for dropless SwiGLU experts, in one loop over blocks of rows."""

  loop: fused_swiglu.FusedSwiglu = fused_swiglu.FusedSwiglu()
  dispatcher: contract.Dispatcher = dropless.Dropless()

  def __call__(
    self,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
  ) -> contract.Output:
    routing = _among(routing, num_experts)
    width = x_TD.shape[1]
    grouping = permute.group(
      routing.expert_A, num_experts, self.loop.row_multiple
    )
    out_TD = self.loop(
      x_TD,
      routing.weight_A,
      routing.token_A,
      grouping,
      weights['w_in_ED2F'].reshape(num_experts, width, -1),
      weights['w_out_EFD'],
    )
    return contract.Output(out_TD, routing.expert_A < num_experts)

  def prepare(self, weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return _side_by_side(weights)

  def chained(self, weights: dict[str, jax.Array]) -> None:
    del weights


@dataclasses.dataclass(frozen=True)
class FusedKernels:
  """The same by kernels, for accelerators."""

  kernels: kernel_swiglu.KernelSwiglu = kernel_swiglu.KernelSwiglu()
  dispatcher: contract.Dispatcher = dropless.Dropless()

  def __call__(
    self,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
  ) -> contract.Output:
    routing = _among(routing, num_experts)
    grouping = permute.group(
      routing.expert_A, num_experts, self.kernels.row_multiple
    )
    w = self._in_order(self.prepare(weights))
    chain = weights.get('chain')
    out_TD, chain = self.kernels(x_TD, routing, grouping, w, chain)
    return contract.Output(out_TD, routing.expert_A < num_experts, chain=chain)

  def prepare(self, weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """w_in_ED2F as two matrices of their own, w_gate_EDF and w_up_EDF."""
    return base.apart(weights)

  def chained(self, weights: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
    return self._in_order(weights)

  def _in_order(self, weights):
    return tuple(weights[n] for n in ('w_gate_EDF', 'w_up_EDF', 'w_out_EFD'))


@dataclasses.dataclass(frozen=True)
class Way:
  """An entry of WAYS: what it makes of a config, and what it asks of it.

  Attributes:
    make: from a config that fits, and `again` of `choose`.
    fits: whether it can do what the config asks for.
    needs: what `fits` asks, in words.
    platforms: where alone it runs; none means everywhere.
    package: what must be installed, which is an extra of the same name.
  """

  make: Callable[[MoEConfig, bool], Compute]
  fits: Callable[[MoEConfig], bool] = lambda _: True
  needs: str = ''
  platforms: tuple[str, ...] = ()
  package: str = ''

  def refuses(self, config: MoEConfig, platform: str) -> str:
    """Why it cannot be taken, or nothing."""
    if not self.fits(config):
      return f'needs {self.needs}; use auto'
    if self.platforms and platform not in self.platforms:
      return f'runs on {" and ".join(self.platforms)} alone; use auto'
    if self.package and importlib.util.find_spec(self.package) is None:
      return (
        f'needs the package {self.package}: '
        f"pip install 'moejax[{self.package}]', or use auto"
      )
    return ''


def _stages(name: str) -> Callable[[MoEConfig, bool], Compute]:
  return lambda config, _: Stages(
    config.dispatcher, config.experts, GROUPED_MATMULS[name]()
  )


def _is_dropless_swiglu(config: MoEConfig) -> bool:
  return (
    type(config.dispatcher) is dropless.Dropless
    and type(config.experts) is experts.SwiGLU
    and not config.experts.bias
  )


def _obvious(config: MoEConfig, again: bool) -> Compute:
  """The slow and obvious ways, for comparison."""
  del again
  return Stages(
    reference.Reference(), config.experts, GROUPED_MATMULS['reference']()
  )


WAYS = {
  'obvious': Way(_obvious),
  **{name: Way(_stages(name)) for name in GROUPED_MATMULS},
  'batched': Way(
    _stages('batched'),
    fits=lambda config: config.dispatcher.equal_groups,
    needs='a dispatcher that gives all experts equally many rows (capacity)',
  ),
  'megablox': Way(_stages('megablox'), platforms=('tpu',)),
  'tokamax': Way(_stages('tokamax'), package='tokamax'),
  'fused': Way(
    lambda *_: Fused(),
    fits=_is_dropless_swiglu,
    needs='the dropless dispatcher and SwiGLU experts without bias',
  ),
  'fused_megablox': Way(
    lambda _, again: FusedKernels(kernel_swiglu.KernelSwiglu(keep=not again)),
    fits=_is_dropless_swiglu,
    needs='the dropless dispatcher and SwiGLU experts without bias',
    platforms=('tpu',),
  ),
}

# What auto takes: the first that fits. docs/benchmarks.md has the figures for
# CPU. On TPU nothing was timed: compiled for it, ragged_dot multiplies all rows
# with each expert for the weights' gradient, and megablox does not. On GPU
# nothing was tried.
AUTO = {
  'cpu': ('fused', 'batched', 'blocked'),
  'tpu': ('fused_megablox', 'batched', 'megablox'),
}
AUTO_ELSEWHERE = ('batched', 'ragged_dot')


def choose(config: MoEConfig, platform: str, again: bool = False) -> Compute:
  """How a config's routed experts are computed on a platform.

  Args:
    config: of the layers.
    platform: 'cpu', 'tpu' ...
    again: whether the backward pass computes them again anyway, so that what is
      kept in the first pass is lost.

  Raises:
    InputError: the config asks for what does not fit the rest of it, or this
      machine.
  """
  name = config.grouped_matmul
  if name == 'auto':
    order = AUTO.get(platform, AUTO_ELSEWHERE)
    name = next(n for n in order if WAYS[n].fits(config))
  way = table.lookup('model.moe.grouped_matmul', WAYS, name)
  why = way.refuses(config, platform)
  if why:
    raise errors.InputError(f'model.moe.grouped_matmul={name} {why}')
  return way.make(config, again)


def _among(routing: contract.Routing, num_experts: int) -> contract.Routing:
  """The routing with nowhere, now `num_experts`, for all ids from there on."""
  return dataclasses.replace(
    routing, expert_A=jnp.minimum(routing.expert_A, num_experts)
  )
