"""Layers of the zoo, with all that belongs to them, on meshes as on one device.

tests/contracts/test_meshes.py compares routers, dispatchers and expert
parallelism. This file has what the layer adds: scorers, biases, choices without
computation, scaled inputs, interpolation, shared experts and the balance
losses. `tests/soak` has all entries.
"""

import pytest
from helpers import whole_layers

from moejax.moe import layer

# Entry, and what it is here for.
CASES = [
  ('autonomy', 'expert', {}),  # a scorer that reads all experts
  # Groups, and three losses by sequence.
  ('deepseek_v2', 'expert', {'num_groups': 4, 'kept_groups': 2}),
  # The losses of sequences whose tokens are on two devices.
  ('deepseek_v2', 'expert_context', {'num_groups': 4, 'kept_groups': 2}),
  # The same in a pipeline.
  ('deepseek_v2', 'expert_stage', {'num_groups': 4, 'kept_groups': 2}),
  ('moe_pp', 'expert', {}),  # choices without computation, the residual, tau
  ('base', 'expert', {'interpolates': True}),
  ('gpt_oss', 'expert_model', {}),  # biases, whose sum is over `model`
  ('latent_moe', 'expert_model', {}),  # matrices around the experts
  ('llama_4', 'expert_model', {}),  # scaled inputs, a shared expert
]
# The others are for `make test-soak`.
DEFAULT = {'gpt_oss'}


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'mesh', 'router'),
  [
    pytest.param(
      *case,
      id='-'.join(case[:2]),
      marks=[] if case[0] in DEFAULT else [pytest.mark.soak],
    )
    for case in CASES
  ],
)
def test_a_mesh_changes_nothing(name, mesh, router):
  whole_layers.check(whole_layers.config_of(name, **router), mesh)


@pytest.mark.soak
def test_a_bias_that_is_summed_twice_is_seen(monkeypatch):
  """All devices of `model` add it, where one must."""
  monkeypatch.setattr(layer.jax.lax, 'axis_index', lambda _: 0)
  with pytest.raises(AssertionError, match='b_out_ED'):
    whole_layers.check(whole_layers.config_of('gpt_oss'), 'expert_model')
