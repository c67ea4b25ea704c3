"""The contract of a kind of experts, and the base of those of two matrices.

Weights of `TwoLayers` by name, float32, biases only where there are some:

  gated   w_in_ED2F  b_in_E2F   w_out_EFD  b_out_ED
  plain   w_in_EDF   b_in_EF    w_out_EFD  b_out_ED
"""

import dataclasses
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import fields, linear


class Multiply(Protocol):
  """A grouped matmul: see `moe.compute.grouped_matmuls`."""

  @property
  def row_multiple(self) -> int:
    """Every group starts at, and has, a multiple of this many rows."""
    ...

  def __call__(
    self, x_RD: jax.Array, w_EDF: jax.Array, size_E: jax.Array
  ) -> jax.Array:
    """y_RF: the rows of each group times the matrix of its expert."""
    ...


class Experts(Protocol):
  """A kind of experts: a frozen dataclass whose fields are its config keys."""

  def init(
    self,
    key: jax.Array,
    num_experts: int,
    width: int,
    hidden: int,
    std: float,
    out: int | None = None,
  ) -> dict[str, nnx.Param]:
    """Weights of all experts by name, float32.

    Args:
      key: of the random numbers.
      num_experts: E; a single expert is a dense feed-forward.
      width: D.
      hidden: F.
      std: standard deviation of the model's weights.
      out: width of the output; None for D.
    """
    ...

  def __call__(
    self,
    w: dict[str, jax.Array],
    x_RD: jax.Array,
    size_E: jax.Array,
    multiply: Multiply,
  ) -> jax.Array:
    """y_RD: the rows of each group through its expert."""
    ...

  def dense(
    self,
    w: dict[str, jax.Array],
    x_TD: jax.Array,
    product: linear.Linear = linear.plain,
  ) -> jax.Array:
    """All rows through one expert (E = 1): shared experts, dense layers."""
    ...


@dataclasses.dataclass(frozen=True)
class TwoLayers(fields.Checked):
  """w_out activate(w_in x + b_in) + b_out: the base of such experts.

  A subclass defines `activate`, or `join` if it is gated. Gated experts store
  gate and up as one weight, so that both are one matmul; `split_gate_up` splits
  it.

  Attributes:
    bias: whether both matrices have biases, zero at the start.
    sigma_init: 0 draws all matrices with the model's standard deviation;
      another number s is sigma-MoE's start (arXiv 2310.10837, section 5): w_in
      with s / sqrt(D), w_out with s / sqrt(E F), as if all experts were one
      wide layer. Its code has s = sqrt(2 / layers).
  """

  gated: ClassVar[bool] = True

  bias: bool = False
  sigma_init: float = fields.number(0.0, at_least=0, at_most=100)

  def activate(self, h_RG: jax.Array) -> jax.Array:
    """h_RF from the product with w_in: G = F, or 2 F for gated experts."""
    return self.join(*jnp.split(h_RG, 2, axis=-1))

  def join(self, gate_RF: jax.Array, up_RF: jax.Array) -> jax.Array:
    """h_RF from the two halves, for gated experts."""
    raise NotImplementedError

  @property
  def _names(self) -> tuple[str, str]:
    return ('w_in_ED2F', 'b_in_E2F') if self.gated else ('w_in_EDF', 'b_in_EF')

  def init(
    self,
    key: jax.Array,
    num_experts: int,
    width: int,
    hidden: int,
    std: float,
    out: int | None = None,
  ) -> dict[str, nnx.Param]:
    """Weights of all experts by name, float32."""
    out = out or width
    key_in, key_out = jax.random.split(key)
    inner = (2, hidden) if self.gated else (hidden,)
    inner_axes = ('unsharded', 'mlp') if self.gated else ('mlp',)
    std_in = std_out = std
    if self.sigma_init:
      std_in = self.sigma_init * width**-0.5
      std_out = self.sigma_init * (num_experts * hidden) ** -0.5
    w_in = jax.random.normal(key_in, (num_experts, width, *inner))
    w_out = jax.random.normal(key_out, (num_experts, hidden, out))
    # One expert is a dense feed-forward, without experts to split.
    expert = 'expert' if num_experts > 1 else 'unsharded'
    name_w, name_b = self._names
    weights = {
      name_w: nnx.Param(
        std_in * w_in, axes=(expert, 'embed', *inner_axes), decays=True
      ),
      'w_out_EFD': nnx.Param(
        std_out * w_out, axes=(expert, 'mlp', 'embed'), decays=True
      ),
    }
    if self.bias:
      zeros = lambda *sizes: jnp.zeros((num_experts, *sizes))
      weights |= {
        name_b: nnx.Param(
          zeros(*inner), axes=(expert, *inner_axes), decays=False
        ),
        'b_out_ED': nnx.Param(zeros(out), axes=(expert, 'embed'), decays=False),
      }
    return weights

  def __call__(
    self,
    w: dict[str, jax.Array],
    x_RD: jax.Array,
    size_E: jax.Array,
    multiply: Multiply,
  ) -> jax.Array:
    """y_RD: the rows of each group through its expert."""
    name_w, name_b = self._names
    num_experts, width = w[name_w].shape[:2]
    w_in = w[name_w].reshape(num_experts, width, -1)
    h_RG = multiply(x_RD, w_in, size_E)
    if self.bias:
      expert_R = expert_of_rows(size_E, len(x_RD))
      b_in = w[name_b].reshape(num_experts, -1)
      h_RG = h_RG + bias_of_rows(b_in, expert_R, h_RG.dtype)
    y_RD = multiply(self.activate(h_RG), w['w_out_EFD'], size_E)
    if self.bias:
      y_RD = y_RD + bias_of_rows(w['b_out_ED'], expert_R, y_RD.dtype)
    return y_RD

  def dense(
    self,
    w: dict[str, jax.Array],
    x_TD: jax.Array,
    product: linear.Linear = linear.plain,
  ) -> jax.Array:
    """All rows through one expert (E = 1): shared experts, dense layers."""
    hidden = self._two_products if 'w_gate_EDF' in w else self._one_product
    h_TF = hidden(w, x_TD, product)
    y_TD = product(h_TF, w['w_out_EFD'][0])
    if self.bias:
      y_TD = y_TD + w['b_out_ED'][0].astype(y_TD.dtype)
    return y_TD

  def _one_product(self, w, x_TD, product):
    """h_TF, with gate and up as one matmul."""
    name_w, name_b = self._names
    w_in = w[name_w][0]
    h_TG = product(x_TD, w_in.reshape(w_in.shape[0], -1))
    if self.bias:
      h_TG = h_TG + w[name_b].reshape(-1).astype(h_TG.dtype)
    return self.activate(h_TG)

  def _two_products(self, w, x_TD, product):
    """h_TF, with gate and up as a matmul each: for `split_gate_up`."""
    names = 'w_gate_EDF', 'w_up_EDF'
    halves = [product(x_TD, w[name][0]) for name in names]
    if self.bias:
      b_2F = w['b_in_E2F'][0].astype(x_TD.dtype)
      halves = [h_TF + b_F for h_TF, b_F in zip(halves, b_2F, strict=True)]
    return self.join(*halves)


def split_gate_up(w: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """The weights with w_in_ED2F split into w_gate_EDF and w_up_EDF.

  On a TPU, where elementwise work is limited by memory, this saves cutting the
  product in two, and concatenating its gradient from two halves.
  """
  if 'w_in_ED2F' not in w:
    return w
  rest = {name: x for name, x in w.items() if name != 'w_in_ED2F'}
  gate, up = (w['w_in_ED2F'][:, :, half] for half in (0, 1))
  return {'w_gate_EDF': gate, 'w_up_EDF': up, **rest}


def for_dense(w: dict[str, jax.Array], platform: str) -> dict[str, jax.Array]:
  """The weights in the form that `dense` is fastest with on a platform."""
  return split_gate_up(w) if platform == 'tpu' else w


def expert_of_rows(size_E: jax.Array, num_rows: int) -> jax.Array:
  """The expert of each row, int32 [R]; E for rows behind the last group.

  Example, 6 rows: size_E [2, 0, 3] -> [0, 0, 2, 2, 2, 3]
  """
  return jnp.searchsorted(
    jnp.cumsum(size_E), jnp.arange(num_rows), side='right'
  ).astype(jnp.int32)


def bias_of_rows(
  b_EF: jax.Array, expert_R: jax.Array, dtype: jnp.dtype
) -> jax.Array:
  """Each row's bias, [R, F]; zeros for rows of no expert."""
  # The gather is in float32 because its gradient sums over rows.
  b_RF = (
    b_EF
    .astype(jnp.float32)
    .at[expert_R]
    .get(mode='fill', fill_value=0, indices_are_sorted=True)
  )
  return b_RF.astype(dtype)
