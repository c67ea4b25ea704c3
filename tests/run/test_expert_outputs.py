"""Outputs of single experts, beside the experts themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import tiny, traced

from moejax.core import errors
from moejax.model.block import LayerSpec
from moejax.moe import feed_forward
from moejax.moe.dispatchers.capacity import Capacity
from moejax.moe.routers.top_k import TopK
from moejax.moe.routers.top_p import TopP
from moejax.moe.routes import RoutesRequest
from moejax.run import expert_outputs

ROW = 12


def trace_of(batch):
  """A trace of the tokens of a batch; its experts do not matter here."""
  real_BL = batch.segment_BL > 0
  count = int(real_BL.sum())
  row_BL = np.arange(len(real_BL))[:, None] * 10
  return traced.trace(
    np.zeros((count, 2, 1)),
    token_T=batch.token_BL[real_BL],
    position_T=batch.position_BL[real_BL],
    document_T=(batch.segment_BL + row_BL)[real_BL],
  )


def test_segments_are_packed_again_whole():
  batch = tiny.batch([[5, 3], [12], [2, 2, 2]], row_length=ROW)
  rows = expert_outputs.pack(trace_of(batch), ROW)
  # 5 + 3 tokens leave no room for 12; what follows fits in one row.
  np.testing.assert_array_equal(rows.token_BL, batch.token_BL)
  np.testing.assert_array_equal(rows.segment_BL, batch.segment_BL)
  np.testing.assert_array_equal(rows.position_BL, batch.position_BL)
  document_L = [1] * 5 + [2] * 3 + [0] * 4
  np.testing.assert_array_equal(rows.document_BL[0], document_L)
  # A segment may be longer than the rows that are asked for.
  assert expert_outputs.pack(trace_of(batch), 4).token_BL.shape[1] == 12


@pytest.mark.parametrize(
  ('moe', 'devices'),
  [
    pytest.param({'router': TopK(k=2)}, 2, marks=pytest.mark.soak),
    (
      {
        'router': TopP(p=0.6),
        'num_shared': 0,
        'dispatcher': Capacity(factor=0.5),
      },
      1,
    ),
  ],
  ids=['top_k', 'top_p with capacity'],
)
def test_the_output_of_each_chosen_expert(moe, devices, monkeypatch):
  # Attention sees 3 tokens in the first and the last layer.
  config = tiny.model_config(moe=moe, max_length=ROW, windows=(3, 0))
  model = tiny.model(config, tiny.mesh(devices, fsdp=devices))
  weights = tiny.weights(model)
  batch = tiny.batch([[5, 3, 4], [12], [12], [12]], row_length=ROW)
  # Two batches; on one device the second is filled with padding.
  monkeypatch.setattr(expert_outputs, 'TOKENS', (4 - devices) * ROW)
  outputs_of = functools.partial(
    expert_outputs.expert_outputs, model, weights, trace_of(batch)
  )
  got = list(outputs_of())
  assert [outputs.layer for outputs in got] == [0, 1, 0, 1]
  assert len(list(outputs_of(limit=1))) == 2

  routes, output_NETD = jax.device_get(reference(model, weights, batch))
  want_NBLK = np.where(routes.dropped_BLK, -1, routes.expert_BLK)
  if 'dispatcher' in moe:
    assert routes.dropped_BLK.any()
  for n in (0, 1):
    outputs = [x for x in got if x.layer == n]
    expert_TK = np.concatenate([x.expert_TK for x in outputs])
    flat = want_NBLK[n].reshape(-1, want_NBLK.shape[-1])
    np.testing.assert_array_equal(expert_TK, flat)
    token_T1 = np.arange(len(expert_TK))[:, None]
    want_TKD = output_NETD[n][np.maximum(expert_TK, 0), token_T1]
    want_TKD = want_TKD * (expert_TK >= 0)[:, :, None]
    output_TKD = np.concatenate([x.output_TKD for x in outputs])
    np.testing.assert_allclose(output_TKD, want_TKD, atol=2e-5)


@functools.partial(jax.jit, static_argnums=0)
def reference(model, weights, batch):
  """The routes, and the outputs of all experts, by their weights, for all."""
  decoder = model.bind(weights)
  arrays = batch.token_BL, batch.segment_BL, batch.position_BL
  routes = decoder(*arrays, routes=RoutesRequest()).record.routes
  tokens = decoder.token_context(*arrays)
  x_BLD = decoder.embed(batch.token_BL)
  config = model.config.moe
  previous = feed_forward.no_previous_layer(config, *batch.token_BL.shape)
  outputs = []
  for kind, index, window in (('dense', 0, 3), ('moe', 0, 0), ('moe', 1, 3)):
    graph, stack = nnx.split(getattr(decoder, kind))
    own = jax.tree.map(lambda x, index=index: x[index], stack)
    block = nnx.merge(graph, own)
    spec = LayerSpec(index, jnp.asarray(window))
    h_BLD = block.feed_forward_input(x_BLD, tokens, spec)
    x_BLD, previous, _ = block(x_BLD, previous, tokens, None, spec)
    if kind == 'moe':
      h_TD = h_BLD.reshape(-1, h_BLD.shape[-1])
      routed = {name: w[...] for name, w in block.ffn.routed.items()}
      alone = [
        {name: w[e : e + 1] for name, w in routed.items()}
        for e in range(config.num_experts)
      ]
      outputs.append([config.experts.dense(w, h_TD) for w in alone])
  return routes, jnp.asarray(outputs)


def test_the_weights_of_each_expert():
  model = tiny.model()
  weights = tiny.weights(model)
  layers = expert_outputs.expert_weights(model, weights)
  assert len(layers) == 2
  routed = weights['moe']['ffn']['routed']
  second = [np.asarray(routed[name][1, 3]).ravel() for name in sorted(routed)]
  np.testing.assert_array_equal(layers[1][3], np.concatenate(second))


def test_a_model_without_experts_has_neither():
  model = tiny.model(tiny.model_config(first_dense=3))
  weights = tiny.weights(model)
  with pytest.raises(errors.InputError, match='no experts with weights'):
    expert_outputs.expert_weights(model, weights)
  with pytest.raises(errors.InputError, match='no layer with routed experts'):
    next(expert_outputs.expert_outputs(model, weights, trace=None))
