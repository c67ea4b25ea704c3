"""IMPLEMENTATIONS: how routed experts are computed on one device.

The config key is `moe.grouped_matmul`. Its values:

  auto       the first entry of AUTO for this platform that fits the config
  reference  the reference dispatcher and matmul, whatever the dispatcher: the
             oracle that the others are compared with. Assignments over the
             configured dispatcher's capacity are still dropped
  fused      one loop over rows; needs the dropless dispatcher and SwiGLU
             experts without bias
  fused_megablox  megablox's kernels with a gradient of their own; has the same
             needs
  <name>     dispatch, experts and combine one after the other, with that entry
             of GROUPED_MATMULS

With `model.quantization` only those with an entry of QUANTISED can be used, and
auto takes the first of them.
"""

import dataclasses
import importlib.util
from collections.abc import Callable

from moejax.core import errors, table
from moejax.core import quantization as quantizations
from moejax.moe import experts
from moejax.moe.compute import (
  base,
  cpu_fused_swiglu,
  pallas_fused_swiglu,
  staged,
)
from moejax.moe.compute.grouped_matmuls import GROUPED_MATMULS
from moejax.moe.compute.quantised_grouped_matmul import QUANTISED, Quantised
from moejax.moe.config import MoEConfig
from moejax.moe.dispatchers import dropless, reference


@dataclasses.dataclass(frozen=True)
class Implementation:
  """An entry of IMPLEMENTATIONS: how it is made, and what it asks of a config.

  Attributes:
    make: (config, remat) -> a Compute, for a config that fits; `remat` is that
      of `choose`.
    fits: config -> whether the implementation supports it.
    needs: the condition that `fits` tests, in words, for the error.
    platforms: the only platforms it runs on; empty means everywhere.
    package: a package that it imports, which is an extra of the same name.
  """

  make: Callable[[MoEConfig, bool], base.Compute]
  fits: Callable[[MoEConfig], bool] = lambda _: True
  needs: str = ''
  platforms: tuple[str, ...] = ()
  package: str = ''

  def refuses(self, config: MoEConfig, platform: str) -> str:
    """Why this implementation cannot be used; '' if it can."""
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


def _stages(name: str) -> Callable[[MoEConfig, bool], staged.StagedCompute]:
  return lambda config, _: staged.StagedCompute(
    config.dispatcher, config.experts, GROUPED_MATMULS[name]()
  )


def _reference(config: MoEConfig, remat: bool) -> staged.StagedCompute:
  del remat
  return staged.StagedCompute(
    reference.Reference(), config.experts, GROUPED_MATMULS['reference']()
  )


def _fused_kernels(config: MoEConfig, remat: bool) -> base.Compute:
  del config
  return pallas_fused_swiglu.PallasFusedCompute(
    pallas_fused_swiglu.PallasFusedSwiglu(keep=not remat)
  )


def _is_dropless_swiglu(config: MoEConfig) -> bool:
  return (
    type(config.dispatcher) is dropless.Dropless
    and type(config.experts) is experts.SwiGLU
    and not config.experts.bias
  )


# Devices of a GPU say 'gpu'; JAX's backends are called 'cuda' and 'rocm'.
GPUS = ('gpu', 'cuda', 'rocm')

IMPLEMENTATIONS = {
  **{name: Implementation(_stages(name)) for name in GROUPED_MATMULS},
  'reference': Implementation(_reference),
  'batched': Implementation(
    _stages('batched'),
    fits=lambda config: config.dispatcher.equal_groups,
    needs='a dispatcher that gives all experts equally many rows (capacity)',
  ),
  'megablox': Implementation(_stages('megablox'), platforms=('tpu',)),
  'tokamax': Implementation(_stages('tokamax'), package='tokamax'),
  'triton': Implementation(_stages('triton'), platforms=GPUS),
  'fused': Implementation(
    lambda *_: cpu_fused_swiglu.CpuFusedCompute(),
    fits=_is_dropless_swiglu,
    needs='the dropless dispatcher and SwiGLU experts without bias',
  ),
  'fused_megablox': Implementation(
    _fused_kernels,
    fits=_is_dropless_swiglu,
    needs='the dropless dispatcher and SwiGLU experts without bias',
    platforms=('tpu',),
  ),
}

# By platform, the implementations in the order in which auto tries them; it
# takes the first that fits. docs/benchmarks.md has the measurements for CPU. On
# TPU and GPU nothing was timed. ragged_dot multiplies all rows with each
# expert, on TPU for the weights' gradient, on NVIDIA GPUs in all products;
# megablox and triton do not.
AUTO = {
  'cpu': ('fused', 'batched', 'blocked'),
  'tpu': ('fused_megablox', 'batched', 'megablox'),
  **dict.fromkeys(GPUS, ('batched', 'triton')),
}
AUTO_ELSEWHERE = ('batched', 'ragged_dot')


def choose_staged(
  config: MoEConfig, platform: str, quantization: str = quantizations.NONE
) -> staged.StagedCompute:
  """An implementation with stages, in which experts' outputs are arrays.

  Args:
    config: of the layers. Its own `moe.grouped_matmul` is taken if it has
      stages, and else the first of the platform that has.
    platform: 'cpu', 'tpu' ...
    quantization: an entry of QUANTIZATIONS.
  """
  compute = choose(config, platform, quantization=quantization)
  if isinstance(compute, staged.StagedCompute):
    return compute
  for name in AUTO.get(platform, AUTO_ELSEWHERE):
    implementation = IMPLEMENTATIONS[name]
    if not implementation.refuses(config, platform):
      compute = implementation.make(config, False)
      if isinstance(compute, staged.StagedCompute):
        return compute
  raise ValueError(f'no implementation with stages runs on {platform}')


def choose(
  config: MoEConfig,
  platform: str,
  remat: bool = False,
  quantization: str = quantizations.NONE,
) -> base.Compute:
  """How a config's routed experts are computed on a platform.

  Args:
    config: of the layers.
    platform: 'cpu', 'tpu' ...
    remat: whether the backward pass recomputes the layer; then an
      implementation need not keep activations in the first forward pass.
    quantization: an entry of QUANTIZATIONS.

  Raises:
    InputError: `moe.grouped_matmul` does not fit the rest of the config, or
      this machine.
  """
  types = quantizations.types_of(quantization)
  if types is not None:
    name = _quantised(config, platform, quantization)
    compute = _stages(name) if name != 'reference' else _reference
    products = QUANTISED[name]()
    return dataclasses.replace(
      compute(config, remat), multiply=Quantised(products, types)
    )
  name = config.grouped_matmul
  if name == 'auto':
    order = AUTO.get(platform, AUTO_ELSEWHERE)
    name = next(n for n in order if IMPLEMENTATIONS[n].fits(config))
  implementation = table.lookup(
    'model.moe.grouped_matmul', IMPLEMENTATIONS, name
  )
  why = implementation.refuses(config, platform)
  if why:
    raise errors.InputError(f'model.moe.grouped_matmul={name} {why}')
  return implementation.make(config, remat)


def _quantised(config: MoEConfig, platform: str, quantization: str) -> str:
  """The entry of QUANTISED that computes a config's experts on a platform."""
  name = config.grouped_matmul
  if name == 'auto':
    order = (*AUTO.get(platform, ()), *AUTO_ELSEWHERE)
    fits = lambda name: IMPLEMENTATIONS[name].fits(config)
    return next(name for name in order if name in QUANTISED and fits(name))
  if name not in QUANTISED:
    raise errors.InputError(
      f'model.moe.grouped_matmul={name} cannot multiply in '
      f'model.quantization={quantization}: set it to auto, or to one of '
      f'{", ".join(sorted(QUANTISED))}'
    )
  if why := IMPLEMENTATIONS[name].refuses(config, platform):
    raise errors.InputError(f'model.moe.grouped_matmul={name} {why}')
  return name
