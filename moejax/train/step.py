"""One training step, jitted as a whole.

1. Split the batch into micro-batches, if there are several.
2. With micro-batches, collect the sums of the balance losses over the global
   batch by a forward pass: these losses are not linear in the batch.
3. Forward and backward pass of each micro-batch; add up the gradients.
4. Clip and update, and set columns of experts' matrices to zero if the rule
   `train.sparsity` says so. If loss or gradient is not finite, or the loss is a
   spike by the rule `train.skip_spikes`, the update is skipped: the state stays
   as it was, except for its counters.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from moejax.core import scopes, values
from moejax.data.batch import Batch
from moejax.model import build
from moejax.model.build import Model
from moejax.moe import after_step
from moejax.moe.expert_parallel import all_gather
from moejax.parallel import hosts, rules
from moejax.train import bad_steps, balance_losses, parts
from moejax.train import loss as losses
from moejax.train import state as states
from moejax.train.config import TrainConfig
from moejax.train.distillation import Teacher
from moejax.train.lora import LoraModel
from moejax.train.optimizer import OptimizerConfig, learning_rate

Metrics = dict[str, Any]


def make(
  model: Model,
  transform: optax.GradientTransformation,
  opt: OptimizerConfig,
  train: TrainConfig,
  seed: int,
  teacher: Model | None = None,
) -> jax.stages.Wrapped:
  """The jitted training step: (state, batch) -> (state, metrics).

  It donates the state, whose buffers must not be used afterwards. Further
  arguments, which it only reads, are the weights of the models of `read_by`.

  Args:
    model: the model without weights.
    transform: the optimiser, from `optimizer.make`.
    opt: config of the optimiser: `clip_norm`, and the learning rate to report.
    train: number of steps and of micro-batches, weights of the losses, and the
      rule to skip spikes.
    seed: seed of all random numbers; each step folds its number into the key.
    teacher: the model that the model learns from (`train.distillation`).
  """
  model = parts.freeze(model, opt.parts)
  update = _updating(model, transform, opt, train)

  def step(
    state: states.State, batch: Batch, *read: build.Weights
  ) -> tuple[states.State, Metrics]:
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    bound, by = _bound(model, teacher, read)
    gradient, report = _dropless(bound, train, state.weights, batch, key, by)
    return update(state, gradient, report)

  place = states.shardings(model, transform, train.skip_spikes, train.sparsity)
  rows = rules.sharding(('rows',), model.mesh)
  whole = rules.replicated(model.mesh)
  return jax.jit(
    step,
    in_shardings=(place, rows, *(m.shardings for m in read_by(model, teacher))),
    out_shardings=(place, whole),
    donate_argnums=0,
    compiler_options=hosts.overlap(model.mesh),
  )


def _bound(
  model: Model, teacher: Model | None, read: tuple[build.Weights, ...]
) -> tuple[Model, Teacher | None]:
  """The model beside its base, and the teacher with its weights."""
  bound = model.on(read[-1]) if isinstance(model, LoraModel) else model
  return bound, None if teacher is None else Teacher(read[0], teacher)


def _updating(
  model: Model,
  transform: optax.GradientTransformation,
  opt: OptimizerConfig,
  train: TrainConfig,
) -> Callable[..., tuple[states.State, Metrics]]:
  """The end of a step: (state, gradient, report) -> (state, metrics)."""
  rate = learning_rate(opt, train.steps)

  @scopes.part('optimiser')
  def update(
    state: states.State, gradient: Any, report: dict[str, Any]
  ) -> tuple[states.State, Metrics]:
    norm = optax.global_norm(gradient)
    leaf_norms = bad_steps.leaf_norms(gradient)
    gradient = _clipped(gradient, norm, opt.clip_norm)
    updates, opt_state = transform.update(
      gradient, state.opt_state, state.weights
    )
    loss = report['values']['loss'].value()
    good = jnp.isfinite(loss) & jnp.isfinite(norm)
    bad = jnp.where(good, 0, 1)
    spike, seen = train.skip_spikes.judge(state.spikes, loss, good)
    taken = good if spike is None else good & ~spike
    keep = lambda new, old: jnp.where(taken, new, old)
    weights = optax.apply_updates(state.weights, updates)
    weights = _after(model, state.weights, weights, report)
    weights, sparsity, measured = train.sparsity.prune(
      state, train.steps, gradient, weights
    )
    new = states.State(
      step=state.step + 1,
      weights=jax.tree.map(keep, weights, state.weights),
      opt_state=jax.tree.map(keep, opt_state, state.opt_state),
      bad_steps=(state.bad_steps + bad) * bad,
      skipped=state.skipped + jnp.where(taken, 0, 1),
      spikes=seen,
      sparsity=jax.tree.map(keep, sparsity, state.sparsity),
    )
    metrics = _metrics(model, report)
    metrics |= {
      'gradient_norm': norm,
      # The optimiser does not count skipped steps.
      'learning_rate': rate(state.step - state.skipped),
      'bad_steps': new.bad_steps,
      'skipped': new.skipped,
      bad_steps.LEAF_NORMS: leaf_norms,
      **train.skip_spikes.metrics(seen),
      **measured,
    }
    return new, metrics

  return update


def read_by(model: Model, teacher: Model | None) -> list[Model]:
  """The models whose weights a step reads, in the order of its arguments."""
  bases = [model.base] if isinstance(model, LoraModel) else []
  return [*([teacher] if teacher else []), *bases]


def _after(model: Model, old: Any, new: Any, report: Metrics) -> Any:
  """The optimiser's new weights, with router state updated by its own rules.

  Router state, such as selection biases, is stored among the weights, so that
  checkpoints and shardings of weights include it. Its gradient is zero; this
  function replaces it, unless it is frozen.
  """
  if 'ffn' in new.get('moe', {}) and model.config.num_moe:
    ffn = after_step.apply(
      model.config.moe,
      old['moe']['ffn'],
      new['moe']['ffn'],
      report['record'].balance,
    )
    new = {**new, 'moe': {**new['moe'], 'ffn': ffn}}
  new = balance_losses.after_step(model.config, old, new, report['vision'])
  return parts.kept(model, old, new)


def _clipped(gradient: Any, norm: jax.Array, clip_norm: float | None) -> Any:
  """A gradient of this global norm, scaled so that it is at most clip_norm."""
  scale = _clip_scale(norm, clip_norm)
  return jax.tree.map(lambda g: g * scale, gradient)


def _clip_scale(norm: jax.Array, clip_norm: float | None) -> jax.Array:
  """The factor by which clipping scales a gradient of this global norm."""
  if clip_norm is None:
    return jnp.ones(())
  return jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-12))


def _dropless(
  model: Model,
  train: TrainConfig,
  weights: Any,
  batch: Batch,
  key: jax.Array,
  teacher: Teacher | None,
) -> tuple[Any, Metrics]:
  """`_gradient`; with overflow='repeat' no token is dropped.

  See `moe.expert_parallel.bounded`. If a buffer overflowed, the gradient is
  computed again with an all-gather, which drops no row.
  """
  first = _gradient(model, train, weights, batch, key, teacher)
  expert_parallel = model.config.moe.expert_parallel
  if (
    getattr(expert_parallel, 'overflow', None) != 'repeat'
    or model.mesh.shape['expert'] == 1
    or not model.config.num_moe
  ):
    return first
  overflow = first[1]['record'].stats['overflow']

  def repeat() -> tuple[Any, Metrics]:
    gathering = model.with_expert_parallel(all_gather.AllGather())
    gradient, report = _gradient(gathering, train, weights, batch, key, teacher)
    report['record'].stats['overflow'] = overflow
    return gradient, report

  return jax.lax.cond(jnp.sum(overflow.total) > 0, repeat, lambda: first)


def _gradient(
  model: Model,
  train: TrainConfig,
  weights: Any,
  batch: Batch,
  key: jax.Array,
  teacher: Teacher | None,
) -> tuple[Any, Metrics]:
  """The gradient of the global batch's loss, and the report of `objective`."""
  total_weight = jnp.maximum(jnp.sum(batch.weight_BL), 1)
  row_B = jnp.arange(batch.token_BL.shape[0], dtype=jnp.int32)
  whole = losses.GlobalBatch(total_weight, teacher=teacher)

  def run(
    rows: tuple[Batch, jax.Array], whole: losses.GlobalBatch
  ) -> tuple[Any, Metrics]:
    loss = lambda w: losses.objective(model, train, w, *rows, key, whole)
    (_, report), gradient = jax.value_and_grad(loss, has_aux=True)(weights)
    return gradient, report

  if train.micro_batches == 1:
    return run((batch, row_B), whole)
  micro = _split((batch, row_B), train.micro_batches, model)
  slope = _slope(model, weights, micro, key)
  whole = dataclasses.replace(whole, balance_slope=slope)
  shapes = jax.eval_shape(run, jax.tree.map(lambda x: x[0], micro), whole)
  carry, _ = jax.lax.scan(
    lambda carry, rows: (_add(carry, run(rows, whole)), None),
    _zero(shapes),
    micro,
  )
  return carry


def _zero(shapes: Any) -> Any:
  """A gradient and a report of these shapes that are neutral in `_add`."""
  gradient, report = shapes
  zeros = lambda tree: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
  vision = report['vision'].items()
  return zeros(gradient), {
    'values': values.empty(report['values']),
    'record': balance_losses.zero(report['record']),
    'vision': {part: balance_losses.zero(record) for part, record in vision},
  }


def _add(a: Any, b: Any) -> Any:
  """Adds gradients and reports of two micro-batches."""
  (gradient_a, a), (gradient_b, b) = a, b
  return (
    jax.tree.map(jnp.add, gradient_a, gradient_b),
    {
      'values': values.merge(a['values'], b['values']),
      'record': balance_losses.add(a['record'], b['record']),
      'vision': {
        part: balance_losses.add(record, b['vision'][part])
        for part, record in a['vision'].items()
      },
    },
  )


def _split(tree: Any, micro_batches: int, model: Model) -> Any:
  """[B, ...] to [M, B / M, ...] for M micro-batches.

  Row r goes to micro-batch r % M, so that every device keeps its own rows: a
  device's rows of the batch are consecutive.
  """

  def one(x: jax.Array) -> jax.Array:
    x = x.reshape(x.shape[0] // micro_batches, micro_batches, *x.shape[1:])
    x = x.swapaxes(0, 1)
    return rules.constrain(
      x, ('unsharded', 'rows', *['unsharded'] * (x.ndim - 2)), model.mesh
    )

  return jax.tree.map(one, tree)


def _slope(model: Model, weights: Any, micro: Any, key: jax.Array) -> Any:
  """The derivative of the balance losses by their sums over all micro-batches.

  It costs a forward pass. Without it the balance losses would be those of each
  micro-batch, and the loss would depend on the number of micro-batches.
  """
  if not (model.config.num_moe or model.config.vision.mixtures):
    return None

  def sums(rows: Any) -> Any:
    batch, row_B = rows
    _, out = losses.passes(model.bind(weights), batch, row_B, key)
    return balance_losses.sums(out.record, out.vision)

  shape = jax.eval_shape(sums, jax.tree.map(lambda x: x[0], micro))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
  total, _ = jax.lax.scan(
    lambda carry, rows: (jax.tree.map(jnp.add, carry, sums(rows)), None),
    zeros,
    micro,
  )
  loss = lambda total: balance_losses.total(model.config, total)[0]
  return jax.lax.stop_gradient(jax.grad(loss)(total))


def _metrics(model: Model, report: Metrics) -> Metrics:
  """A report as arrays: scalar metrics by name, and `stats` by layer.

  `vision_stats` are those of the front end's layers, by part.
  """
  metrics = values.finish(report['values'])
  record, vision = report['record'], report['vision']
  sums = balance_losses.sums(record, vision)
  metrics |= balance_losses.total(model.config, sums)[1]
  if vision:
    metrics['vision_stats'] = {
      part: values.finish(own.stats) for part, own in vision.items()
    }
  if model.config.num_moe:
    moe = model.config.moe
    metrics['stats'] = values.finish(record.stats)
    if moe.used_choices is not None:
      count_NE = metrics['stats']['count_E']
      count_NE = jnp.where(moe.used_choices, count_NE, jnp.nan)
      metrics['stats']['count_E'] = count_NE
  return metrics
