"""The training state: everything that a step changes and a checkpoint holds."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from moejax.model.build import Model
from moejax.parallel import rules
from moejax.train import optimizer, sparsity, spikes


@flax.struct.dataclass
class State:
  """A training state after `step` steps.

  Random keys follow from (seed, step), and the position in the data is `step`,
  so neither needs a field.

  Attributes:
    step: int32, number of steps, skipped ones included.
    weights: the model's weights, router state included.
    opt_state: state of the optimiser.
    bad_steps: int32, number of last steps in a row whose loss or gradient was
      not finite.
    skipped: int32, number of all steps whose update was skipped: not finite, or
      spikes.
    spikes: memory of the rule `train.skip_spikes`; () for `never`.
    sparsity: memory of the rule `train.sparsity`; () for `none`.
  """

  step: jax.Array
  weights: Any
  opt_state: Any
  bad_steps: jax.Array
  skipped: jax.Array
  spikes: Any = ()
  sparsity: Any = ()


def init(
  model: Model,
  transform: optax.GradientTransformation,
  key: jax.Array,
  rule: Any = spikes.NEVER,
  sparse: Any = sparsity.NONE,
) -> State:
  """A fresh state with random weights.

  Every array is made on the devices that hold it.

  Args:
    model: the model.
    transform: the optimiser.
    key: random key of the weights.
    rule: rule to skip spikes, `train.skip_spikes`.
    sparse: rule of sparse experts, `train.sparsity`.
  """
  return begin(model, transform, model.init(key), rule, sparse)


def begin(
  model: Model,
  transform: optax.GradientTransformation,
  weights: Any,
  rule: Any = spikes.NEVER,
  sparse: Any = sparsity.NONE,
) -> State:
  """The state before the first step, with given weights."""
  place = shardings(model, transform, rule, sparse)
  make = jax.jit(transform.init, out_shardings=place.opt_state)
  zero = jax.device_put(jnp.zeros((), jnp.int32), place.step)
  return State(
    step=zero,
    weights=weights,
    opt_state=make(weights),
    bad_steps=jnp.copy(zero),
    skipped=jnp.copy(zero),
    # Copies, as for `bad_steps`: a buffer can be donated only once.
    spikes=jax.tree.map(
      lambda x, to: jax.device_put(jnp.copy(x), to), rule.init(), place.spikes
    ),
    sparsity=jax.tree.map(
      jax.device_put, sparse.init(model.shapes), place.sparsity
    ),
  )


def shardings(
  model: Model,
  transform: optax.GradientTransformation,
  rule: Any = spikes.NEVER,
  sparse: Any = sparsity.NONE,
) -> State:
  """The sharding of every array of the state."""
  # A State whose leaves are shardings, not arrays.
  whole: Any = rules.replicated(model.mesh)
  shapes = jax.eval_shape(transform.init, model.shapes)
  return State(
    step=whole,
    weights=model.shardings,
    opt_state=optimizer.shardings(shapes, model.shardings, whole),
    bad_steps=whole,
    skipped=whole,
    spikes=jax.tree.map(lambda _: whole, rule.init()),
    sparsity=sparsity.shardings(sparse, model),
  )


def abstract(
  model: Model,
  transform: optax.GradientTransformation,
  rule: Any = spikes.NEVER,
  sparse: Any = sparsity.NONE,
) -> State:
  """Shapes, types and shardings of the state, to restore a checkpoint with."""
  # A State whose leaves are shapes, not arrays.
  scalar: Any = jax.ShapeDtypeStruct((), jnp.int32)
  shapes = State(
    step=scalar,
    weights=model.shapes,
    opt_state=jax.eval_shape(transform.init, model.shapes),
    bad_steps=scalar,
    skipped=scalar,
    spikes=jax.eval_shape(rule.init),
    sparsity=jax.eval_shape(lambda: sparse.init(model.shapes)),
  )
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    shardings(model, transform, rule, sparse),
  )
