"""The parts of a training step as functions of their own, to be timed."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.standard import Shape
from benchmarks.timing import Part
from moejax.data import synthetic
from moejax.data.batch import Batch
from moejax.model import block, build
from moejax.model.attention import grouped
from moejax.model.config import ModelConfig
from moejax.moe import feed_forward, feed_forwards, layer
from moejax.moe.feed_forward import TokenInfo
from moejax.parallel import mesh as meshes
from moejax.train import cross_entropy, optimizer, state

PEAK = 'peak'
MOE, DENSE = 'experts layer', 'dense layer, same active'


def parts(shape: Shape) -> list[Part]:
  """The parts of a step, forward and backward."""
  config, tokens = shape.config, shape.tokens
  width, layers = config.width, config.num_layers
  ffn_flops = 6 * tokens * 3 * width * shape.active_width
  heads = config.num_heads * config.head_dim
  core_flops = 3 * 4 * tokens * shape.length * heads
  matrix = jnp.ones((1024, 1024), config.dtype)
  return [
    Part(PEAK, jax.jit(jnp.matmul), (matrix, matrix), 2.0 * 1024**3, 0),
    Part(
      'attention',
      *_attention(shape),
      6 * tokens * 4 * width * heads + core_flops,
      layers,
    ),
    Part('  its core', *_core(shape), core_flops, layers),
    Part(MOE, *experts(shape), ffn_flops, layers),
    Part(DENSE, *dense(shape), ffn_flops, 0),
    Part(
      'head and loss',
      *_head(shape),
      6 * tokens * width * config.vocab_size,
      1,
    ),
    Part('optimiser', *_optimiser(config), 0.0, 1),
  ]


def mesh() -> jax.sharding.Mesh:
  """One device."""
  return meshes.make(meshes.MeshConfig(), jax.devices()[:1])


def batch(shape: Shape) -> Batch:
  """A batch of made-up tokens."""
  rows = synthetic.Synthetic(
    length=shape.length, vocab_size=shape.config.vocab_size
  )
  return rows.batch(0, shape.rows)


def hidden(shape: Shape) -> jax.Array:
  """Activations x_BLD, in the type that the model computes in."""
  size = (shape.rows, shape.length, shape.config.width)
  return jax.random.normal(jax.random.key(1), size, shape.config.dtype)


def tokens(shape: Shape) -> TokenInfo:
  """What a layer is told of a batch without padding."""
  index_BL = jnp.arange(shape.tokens).reshape(shape.rows, shape.length)
  valid_BL = jnp.ones(index_BL.shape, bool)
  return TokenInfo(valid_BL, index_BL, index_BL % shape.config.vocab_size)


def with_gradient(loss: Callable[..., Any], count: int) -> Any:
  """A loss, and its gradient to the first `count` arguments."""
  return jax.jit(jax.value_and_grad(loss, argnums=tuple(range(count))))


def experts(
  shape: Shape,
  key: jax.Array | None = None,
  on: jax.sharding.Mesh | None = None,
) -> tuple[Any, Any]:
  """An experts layer, forward and backward, and what it is given.

  Args:
    shape: of model and batch.
    key: for a router that draws; None is evaluation.
    on: the devices; by default one.
  """
  config = shape.config
  on = mesh() if on is None else on
  module = layer.MoE(
    config.moe, config.width, config.init_std, on, jax.random.key(0)
  )
  graph, weights = nnx.split(module)
  inputs = tokens(shape)
  previous = feed_forward.no_previous_layer(
    config.moe, shape.rows, shape.length
  )

  def loss(weights: Any, x_BLD: jax.Array) -> jax.Array:
    moe = nnx.merge(graph, weights)
    out_BLD, _, record = moe(x_BLD, inputs, previous, key)
    balance = jax.tree.leaves(record.balance)
    return _energy(out_BLD) + sum(map(jnp.sum, balance))

  return with_gradient(loss, 2), (weights, hidden(shape))


def dense(shape: Shape) -> tuple[Any, Any]:
  """A dense SwiGLU as wide as what a token passes of the experts."""
  module = feed_forwards.Dense(
    block.layer_sizes(shape.config),
    shape.active_width,
    mesh(),
    jax.random.key(0),
  )
  graph, weights = nnx.split(module)

  def loss(weights: Any, x_BLD: jax.Array) -> jax.Array:
    return _energy(nnx.merge(graph, weights).output(x_BLD))

  return with_gradient(loss, 2), (weights, hidden(shape))


def _energy(x: jax.Array) -> jax.Array:
  """A loss that depends on all of x; summed in float32."""
  return jnp.sum(x.astype(jnp.float32) ** 2)


def _platform() -> str:
  return jax.devices()[0].platform


def _positions(shape: Shape) -> tuple[jax.Array, Any]:
  config = shape.config
  position_BL = jnp.tile(jnp.arange(shape.length), (shape.rows, 1))
  angles = config.rope.angles(position_BL, config.head_dim)
  return jnp.ones(position_BL.shape, jnp.int32), angles


def _attention(shape: Shape) -> tuple[Any, Any]:
  module = grouped.Attention(shape.config, _platform(), jax.random.key(0))
  graph, weights = nnx.split(module)
  segment_BL, angles = _positions(shape)

  def loss(weights: Any, x_BLD: jax.Array) -> jax.Array:
    return _energy(nnx.merge(graph, weights)(x_BLD, angles, segment_BL))

  return with_gradient(loss, 2), (weights, hidden(shape))


def _core(shape: Shape) -> tuple[Any, Any]:
  config = shape.config
  module = grouped.Attention(config, _platform(), jax.random.key(0))
  size = (shape.rows, shape.length, config.num_heads, config.head_dim)
  q, k, v = jax.random.normal(jax.random.key(2), (3, *size), config.dtype)
  segment_BL, _ = _positions(shape)

  def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return _energy(module.core(q, k, v, segment_BL))

  return with_gradient(loss, 3), (q, k, v)


def _head(shape: Shape) -> tuple[Any, Any]:
  rows = batch(shape)
  size = (shape.config.width, shape.config.vocab_size)
  w_DV = 0.02 * jax.random.normal(jax.random.key(3), size)
  on = mesh()

  def loss(x_BLD: jax.Array, w_DV: jax.Array) -> jax.Array:
    w_DV = w_DV.astype(x_BLD.dtype)
    return cross_entropy.on_mesh(
      x_BLD, w_DV, rows.target_BL, rows.weight_BL, on
    )[0]

  return with_gradient(loss, 2), (hidden(shape), w_DV)


def _optimiser(config: ModelConfig) -> tuple[Any, Any]:
  model = build.build(config, mesh())
  opt = optimizer.OptimizerConfig()
  transform = optimizer.make(opt, 1000, model.decays)
  current = state.init(model, transform, jax.random.key(0))

  @functools.partial(jax.jit, donate_argnums=1)
  def update(gradient: Any, carry: Any) -> Any:
    weights, opt_state = carry
    updates, opt_state = transform.update(gradient, opt_state, weights)
    return jax.tree.map(jnp.add, weights, updates), opt_state

  gradient = jax.tree.map(jnp.ones_like, current.weights)
  # The state is donated, as in training: each call goes on from the last.
  kept = [(current.weights, current.opt_state)]

  def run() -> Any:
    kept[0] = update(gradient, kept[0])
    return kept[0]

  return run, ()
