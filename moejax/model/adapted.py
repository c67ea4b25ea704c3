"""Weights with low-rank adapters: W + s A B, formed layer by layer (LoRA).

LoRA (arXiv 2106.09685) trains A and B and leaves W as it is. A weight here is a
matrix for each layer, and for each expert. Some of its dimensions are inputs,
some are outputs, and the others count matrices, which have a pair each.

  W             A            B
  w_in_ED2F     a_ED2r       b_E2rF        gate and up are two matrices
  w_out_EFD     a_EFr        b_ErD
  w_q_DHK       a_Dr         b_rHK         D to all heads at once
  w_o_HKD       a_HKr        b_rD

The sum is formed where a layer is computed, and formed again in its backward
pass. So the layers are computed as without adapters, by any implementation, and
in memory are the sums of one layer and their gradients, not those of all.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from moejax.model import formed

RANK = 'r'  # letter of the rank's dimension
_ONE = 'z'  # letter of a dimension of one
_LETTERS = {ord('2'): 'h'}  # einsum takes no digits


@dataclasses.dataclass(frozen=True)
class Form:
  """Which dimensions of a weight are inputs, and which are outputs.

  Attributes:
    letters: of its dimensions, without layers, as in its name: 'ED2F'.
    inputs: those that its input is multiplied with: 'D'.
    outputs: those that remain: 'F'.
  """

  letters: str
  inputs: str
  outputs: str

  @property
  def a(self) -> str:
    """Letters of A."""
    return ''.join(x for x in self.letters if x not in self.outputs) + RANK

  @property
  def b(self) -> str:
    """Letters of B."""
    at = self.letters.index(self.outputs)
    kept = self.letters[:at] + RANK + self.letters[at:]
    return ''.join(x for x in kept if x not in self.inputs)


@flax.struct.dataclass
class Adapted(formed.Formed):
  """A weight and its adapter; layers may stand in front of all three.

  Attributes:
    weight: W, which is not trained.
    a: A.
    b: B.
    form: of the weight.
    scale: s.
  """

  weight: jax.Array
  a: jax.Array
  b: jax.Array
  form: Form = flax.struct.field(pytree_node=False)
  scale: float = flax.struct.field(pytree_node=False)

  def array(self) -> jax.Array:
    """W + s A B."""
    form = self.form
    # A dimension of one, which counts matrices: policies of rematerialisation
    # keep products without such a dimension.
    product = ','.join(f'...{_ONE}{letters}' for letters in (form.a, form.b))
    delta = jnp.einsum(
      f'{product}->...{_ONE}{form.letters}'.translate(_LETTERS),
      self.a[..., None, *[slice(None)] * len(form.a)],
      self.b[..., None, *[slice(None)] * len(form.b)],
      # Of float32, on a TPU too: the weights of an export are the same.
      precision=jax.lax.Precision.HIGHEST,
    )
    return self.weight + self.scale * jnp.squeeze(delta, -1 - len(form.letters))
