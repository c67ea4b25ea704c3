"""Tiny models, their weights, and batches: quick to compile, easy to fill."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from moejax.core import trees
from moejax.data.batch import Batch
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.moe.contract import RouterInput
from moejax.parallel import mesh as meshes

MOE = MoEConfig(num_experts=4, expert_width=6, num_shared=2)

MODEL = ModelConfig(
  vocab_size=64,
  num_layers=3,
  first_dense=1,
  width=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  dense_width=12,
  moe=MOE,
)


def model_config(*, moe=None, **changes):
  """`MODEL` with changes; `moe` holds those of its MoE part."""
  inner = dataclasses.replace(MODEL.moe, **(moe or {}))
  return dataclasses.replace(MODEL, moe=inner, **changes)


def mesh(devices=1, **sizes):
  """A mesh of the first few of the eight devices."""
  return meshes.make(meshes.MeshConfig(**sizes), jax.devices()[:devices])


def in_stages(run, of_mesh):
  """`run` as it is inside of a pipeline: in a `shard_map` over `stage`.

  Every stage has all arguments. A result is the mean over the stages.
  """
  if of_mesh.shape['stage'] == 1:
    return run
  stage = jax.sharding.PartitionSpec('stage')
  every = jax.shard_map(
    lambda *xs: jax.tree.map(lambda x: x[None], run(*xs)),
    mesh=of_mesh,
    in_specs=jax.sharding.PartitionSpec(),
    out_specs=stage,
    axis_names={'stage'},
    check_vma=False,
  )
  mean = lambda x: jnp.mean(x, axis=0)
  return lambda *xs: jax.tree.map(mean, every(*xs))


def model(config=MODEL, mesh_of=None):
  return build.build(config, mesh() if mesh_of is None else mesh_of)


def weights(of_model, seed=0, std=0.3):
  """Weights drawn by numpy: drawing them by JAX takes seconds to compile."""
  return jax.device_put(draw(of_model.shapes, seed, std), of_model.shardings)


def draw(shapes, seed=0, std=0.3):
  """Normal numbers in a tree of shapes; norms' scales are around 1.

  The state of routers starts at zero.
  """
  rng = np.random.default_rng(seed)

  def one(path, leaf):
    if 'router_state/' in path:
      return np.zeros(leaf.shape, np.float32)
    start = 1.0 if 'scale' in path else 0.0
    return (start + std * rng.normal(size=leaf.shape)).astype(np.float32)

  return trees.map_paths(one, shapes)


def module(make, seed=0, std=0.3):
  """An nnx module's structure and drawn weights; join them with `bind`."""
  graph, state = nnx.split(nnx.eval_shape(make))
  return graph, draw(nnx.to_pure_dict(state), seed, std)


def bind(graph, values):
  return nnx.merge(graph, nnx.State(jax.tree.map(nnx.Param, values)))


def documents(lengths, row_length):
  """segment_L and position_L of documents packed into a row.

  Example: documents([2, 3], 6) -> [1, 1, 2, 2, 2, 0], [0, 1, 0, 1, 2, 0]
  """
  segment = np.zeros(row_length, np.int32)
  position = np.zeros(row_length, np.int32)
  start = 0
  for i, length in enumerate(lengths):
    segment[start : start + length] = i + 1
    position[start : start + length] = np.arange(length)
    start += length
  return segment, position


def batch(rows, vocab_size=MODEL.vocab_size, row_length=12, seed=0):
  """Packed rows of random tokens.

  Args:
    rows: of each row, the lengths of its documents.
    vocab_size: ids are below.
    row_length: what the documents do not fill is padding.
    seed: of the tokens.
  """
  rng = np.random.default_rng(seed)
  packed = [documents(lengths, row_length) for lengths in rows]
  segment_BL, position_BL = (np.stack(x) for x in zip(*packed, strict=True))
  shape = segment_BL.shape
  draw_BL = lambda: rng.integers(1, vocab_size, shape).astype(np.int32)
  return Batch(
    token_BL=np.where(segment_BL > 0, draw_BL(), 0),
    target_BL=np.where(segment_BL > 0, draw_BL(), 0),
    weight_BL=(segment_BL > 0).astype(np.float32),
    position_BL=position_BL,
    segment_BL=segment_BL,
  )


def router_input(logits_TE, *, valid_T=None, key=None, row_length=None, **more):
  """What a router gets for these scores; every token valid unless said.

  `more` are further fields of RouterInput.
  """
  num_tokens = len(logits_TE)
  if valid_T is None:
    valid_T = np.ones(num_tokens, bool)
  return RouterInput(
    logits_TE=jnp.asarray(logits_TE, jnp.float32),
    valid_T=jnp.asarray(valid_T),
    index_T=jnp.arange(num_tokens, dtype=jnp.int32),
    key=key,
    row_length=num_tokens if row_length is None else row_length,
    **more,
  )


@functools.partial(jax.jit, static_argnums=0)
def _routed(router, inputs):
  return router(inputs)


def route(router, inputs):
  """A router's list in numpy, by one program for all inputs of these shapes.

  Outside `jax.jit` each operation would be a program of its own, and a router
  has dozens.
  """
  return jax.device_get(_routed(router, inputs))


def assert_close(got, want, rtol=1e-5, atol=1e-6):
  """Two trees of the same structure, leaf by leaf, each leaf named."""
  got, want = trees.leaves(got), trees.leaves(want)
  assert got.keys() == want.keys()
  for path, leaf in got.items():
    np.testing.assert_allclose(
      np.asarray(leaf, np.float64),
      np.asarray(want[path], np.float64),
      rtol=rtol,
      atol=atol,
      err_msg=path,
    )
