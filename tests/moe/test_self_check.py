"""The self-check before step 0 sees the ways in which a kernel can be wrong."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import errors
from moejax.moe import self_check
from moejax.moe.compute import (
  cpu_fused_swiglu,
  grouped_matmuls,
  implementations,
  staged,
  triton_grouped_matmul,
)
from moejax.moe.compute.base import ExpertOutput
from moejax.moe.config import MoEConfig
from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.expert_parallel import EXPERT_PARALLEL, all_to_all
from moejax.moe.experts import EXPERTS
from moejax.moe.routers import ROUTERS
from moejax.moe.scorers import SCORERS

MoE = MoEConfig(num_experts=4, router=ROUTERS['top_k'](k=2))
STAGES = dataclasses.replace(MoE, grouped_matmul='blocked')


def slow(*case):
  """A case for `make test-soak`: it compiles two gradients of a layer."""
  return pytest.param(*case, marks=pytest.mark.soak)


class _One(ROUTERS['top_k']):
  """A router without a gradient: what there is of one is rounding."""

  def check(self, num_experts):
    del num_experts  # a user's own may do this; ours is refused


@pytest.mark.parametrize(
  'config',
  [
    MoE,
    slow(STAGES),
    slow(dataclasses.replace(MoE, grouped_matmul='ragged_dot')),
    slow(dataclasses.replace(MoE, router=_One(k=1, renormalise=True))),
    slow(dataclasses.replace(MoE, dispatcher=DISPATCHERS['capacity']())),
    slow(
      dataclasses.replace(
        MoE,
        router=ROUTERS['gshard'](),
        dispatcher=DISPATCHERS['capacity'](factor=0.5),
      )
    ),
    slow(
      dataclasses.replace(
        MoE,
        scorer=SCORERS['expert_norm'](),
        experts=EXPERTS['autonomous_swiglu'](),
      )
    ),
  ],
  ids=[
    'fused',
    'blocked',
    'ragged_dot',
    'one',
    'capacity',
    'gshard',
    'autonomy',
  ],
)
def test_the_real_paths_pass(config):
  found = self_check.run(config, 'float32', tiny.mesh())
  # Output, tokens, the router's weights, and both of the experts. Autonomous
  # experts have four, and no router's.
  assert len(found) == (6 if config.scorer.reads_experts else 5)


@dataclasses.dataclass(frozen=True)
class _GradientToTheEmpty(grouped_matmuls.Blocked):
  """Right forward; an expert without rows gets a gradient."""

  def __call__(self, x_RD, w_EDF, size_E):
    y_RF = super().__call__(x_RD, w_EDF, size_E)
    empty_E = (size_E == 0)[:, None, None]
    leak = jnp.sum(jnp.where(empty_E, w_EDF, 0))
    return y_RF + leak - jax.lax.stop_gradient(leak)


@dataclasses.dataclass(frozen=True)
class _OneRowOff(grouped_matmuls.Blocked):
  """The first row of every output is of another expert."""

  def __call__(self, x_RD, w_EDF, size_E):
    y_RF = super().__call__(x_RD, w_EDF, size_E)
    return y_RF.at[0].set(x_RD[0] @ w_EDF[0])


@pytest.mark.parametrize('broken', [_GradientToTheEmpty, slow(_OneRowOff)])
def test_a_wrong_kernel_stops_the_run(broken, monkeypatch):
  monkeypatch.setitem(grouped_matmuls.GROUPED_MATMULS, 'blocked', broken)
  with pytest.raises(errors.StoppedError, match=r"self-check: .*'blocked'"):
    self_check.run(STAGES, 'float32', tiny.mesh())


SKEWED = {
  **{name: {'scorer': SCORERS[name]()} for name in ('cosine', 'hyper')},
  **{
    name: {'router': ROUTERS[name]()}
    for name in ('expert_choice', 'hash', 'thor')
  },
  'autonomy': {
    'scorer': SCORERS['expert_norm'](),
    'experts': EXPERTS['autonomous_swiglu'](),
  },
}


@pytest.mark.soak
@pytest.mark.parametrize('name', SKEWED)
def test_an_expert_is_empty_whatever_scores_and_routes(name, monkeypatch):
  """Nothing in their weights could make it so for all of them."""
  monkeypatch.setitem(
    grouped_matmuls.GROUPED_MATMULS, 'blocked', _GradientToTheEmpty
  )
  config = dataclasses.replace(STAGES, **SKEWED[name])
  with pytest.raises(errors.StoppedError, match='gradient of routed/'):
    self_check.run(config, 'float32', tiny.mesh())


# A token chooses experts, experts choose tokens, or the scores count nothing.
QUICK = 'top_k', 'expert_choice', 'hash'


@pytest.mark.parametrize(
  'name', [name if name in QUICK else slow(name) for name in sorted(ROUTERS)]
)
def test_the_first_expert_gets_nothing_and_the_last_one_most(name):
  num_tokens, num_experts = 32, 8
  router = self_check.Skewed(ROUTERS[name](), num_experts)
  rng = np.random.default_rng(0)
  draw = lambda num: rng.normal(size=(num_tokens, num)).astype(np.float32)
  seen = tiny.router_input(
    draw(router.num_logits(num_experts)),
    key=jax.random.key(0),
    extra_scores={
      key: draw(num)
      for key, (_, num) in router.extra_scorers(num_experts).items()
    },
    token_T=jnp.arange(num_tokens),
  )

  @jax.jit
  def both(seen):
    plain = router.router(seen)
    return plain, dataclasses.replace(router, router=lambda _: plain)(seen)

  plain, skewed = jax.device_get(both(seen))
  count_E = np.bincount(skewed.expert_A, minlength=num_experts + 1)[:-1]
  assert count_E[0] == 0
  assert count_E[-1] > count_E.sum() / 2
  assert count_E.sum() == (plain.expert_A < num_experts).sum()
  np.testing.assert_array_equal(skewed.weight_A, plain.weight_A)


class _TracedError(Exception):
  """Ends a check once it has traced the layer."""


def test_the_layer_is_traced_as_in_training(monkeypatch):
  """dense_to_sparse uses all four experts there, and one in evaluation."""

  class Stops(staged.StagedCompute):
    def __call__(self, weights, x_TD, routing, num_experts, _=None):
      raise _TracedError(routing.per_token)

  real = implementations.choose

  def choose(config, platform, **options):
    made = real(config, platform, **options)
    return Stops(made.dispatcher, made.experts, made.multiply)

  monkeypatch.setattr(implementations, 'choose', choose)
  config = dataclasses.replace(STAGES, router=ROUTERS['dense_to_sparse']())
  with pytest.raises(_TracedError) as stop:
    self_check.run(config, 'float32', tiny.mesh())
  assert stop.value.args == (4,)


@pytest.mark.soak
def test_the_list_is_that_of_training(monkeypatch):
  """dense_to_sparse uses many experts there, and one in evaluation."""

  class ManyAreWrong(staged.StagedCompute):
    def __call__(self, weights, x_TD, routing, num_experts, _=None):
      found = super().__call__(weights, x_TD, routing, num_experts)
      grown = 1 if routing.per_token == 1 else 2
      return ExpertOutput(grown * found.out_TD, found.sent_A)

  real = implementations.choose

  def choose(config, platform, **options):
    made = real(config, platform, **options)
    if config.grouped_matmul == 'reference':
      return made
    return ManyAreWrong(made.dispatcher, made.experts, made.multiply)

  monkeypatch.setattr(implementations, 'choose', choose)
  config = dataclasses.replace(STAGES, router=ROUTERS['dense_to_sparse']())
  with pytest.raises(errors.StoppedError, match='output'):
    self_check.run(config, 'float32', tiny.mesh())


# What a check might compute: an output, and gradients of two sizes.
WANT = {'output': [1.0, -2.0], 'gradient of w': [3.0, 0.0], 'of little': [0.0]}


def check_of(changes, config, mesh, monkeypatch):
  """A check whose path gives `WANT` with changes, and no layer is computed.

  Returns the configs and meshes that were asked for, the reference's first.
  """
  asked = []

  def compute(config, mesh, size, problem, options):
    del size, problem, options
    asked.append((config, mesh))
    values = WANT if len(asked) == 1 else WANT | changes
    return {name: np.array(value) for name, value in values.items()}

  monkeypatch.setattr(self_check, '_output_and_gradients', compute)
  monkeypatch.setattr(self_check, '_problem', lambda *_: None)
  self_check.run(config, 'float32', mesh)
  return asked


ALL_TO_ALL = dataclasses.replace(
  MoE, expert_parallel=EXPERT_PARALLEL['all_to_all']()
)


def test_the_reference_is_of_one_device_and_the_path_of_the_runs_own(
  monkeypatch,
):
  mesh = tiny.mesh(8, data=2, expert=2, model=2)
  reference, *paths = check_of({}, ALL_TO_ALL, mesh, monkeypatch)
  assert reference[0].grouped_matmul == 'reference'
  assert reference[1].size == 1
  lossless = ALL_TO_ALL.expert_parallel.lossless(2)
  assert [config.expert_parallel for config, _ in paths] == list(lossless)
  for config, path_mesh in paths:
    assert config.grouped_matmul == MoE.grouped_matmul
    assert path_mesh is mesh


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'output': [1.0, -2.001]}, 'output of the experts differs by 0.0005'),
    ({'output': [1.0, np.nan]}, 'output .* by nan'),
    ({'gradient of w': [3.0, 0.001]}, 'gradient of w .* by 0.00033'),
    # As much beside the largest gradient as a hundredth of it allows.
    ({'of little': [4e-6]}, 'of little .* by 0.00013'),
  ],
)
def test_an_error_is_named_with_its_place(changes, words, monkeypatch):
  with pytest.raises(errors.StoppedError, match=f'self-check: {words}') as stop:
    check_of(changes, ALL_TO_ALL, tiny.mesh(2, expert=2), monkeypatch)
  assert 'AllToAll' in str(stop.value)


def test_rounding_is_no_error(monkeypatch):
  """Nor in a gradient that is rounding alone."""
  changes = {'output': [1.0, -2.0001], 'of little': [2e-6]}
  check_of(changes, MoE, tiny.mesh(), monkeypatch)


EXPERT_PARALLEL_TRIED = [
  ('all_to_all', {'data': 2, 'expert': 2, 'model': 2}),
  ('ragged_all_to_all', {'expert': 4, 'fsdp': 2, 'data': 1}),
]


@pytest.mark.soak
@pytest.mark.parametrize(('expert_parallel', 'sizes'), EXPERT_PARALLEL_TRIED)
def test_the_check_runs_on_the_runs_own_mesh(expert_parallel, sizes):
  config = dataclasses.replace(
    MoE, expert_parallel=EXPERT_PARALLEL[expert_parallel]()
  )
  self_check.run(config, 'float32', tiny.mesh(8, **sizes))


@pytest.mark.soak
def test_rows_that_go_astray_stop_the_run(monkeypatch):
  """What comes back from the other devices is in the wrong order."""
  real = all_to_all.swap
  monkeypatch.setattr(
    all_to_all, 'swap', lambda x_PN: jnp.roll(real(x_PN), 1, axis=1)
  )
  with pytest.raises(errors.StoppedError, match=r'self-check: .*AllToAll'):
    self_check.run(ALL_TO_ALL, 'float32', tiny.mesh(2, expert=2))


@pytest.mark.soak
def test_nan_is_not_close():
  class Nan(staged.StagedCompute):
    def __call__(self, *given):
      found = super().__call__(*given)
      return ExpertOutput(found.out_TD * jnp.nan, found.sent_A)

  real = implementations.choose

  def choose(config, platform, **options):
    made = real(config, platform, **options)
    if config.grouped_matmul == 'reference':
      return made
    return Nan(made.dispatcher, made.experts, made.multiply)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(implementations, 'choose', choose)
    with pytest.raises(errors.StoppedError, match='nan'):
      self_check.run(STAGES, 'float32', tiny.mesh())


def test_auto_is_fused_on_cpu_only_where_it_applies():
  cpu = implementations.choose(MoE, 'cpu')
  assert cpu == cpu_fused_swiglu.CpuFusedCompute()
  gpu = implementations.choose(MoE, 'gpu')
  assert gpu.multiply == triton_grouped_matmul.Triton()
  capacity = dataclasses.replace(MoE, dispatcher=DISPATCHERS['capacity']())
  for platform in ('cpu', 'gpu'):
    made = implementations.choose(capacity, platform)
    assert made.multiply == grouped_matmuls.Batched()


@pytest.mark.parametrize(
  ('name', 'dispatcher', 'words'),
  [
    ('fused', 'capacity', 'needs the dropless dispatcher'),
    ('batched', 'dropless', 'equally many rows'),
  ],
)
def test_what_does_not_fit_is_refused(name, dispatcher, words):
  config = dataclasses.replace(
    MoE, grouped_matmul=name, dispatcher=DISPATCHERS[dispatcher]()
  )
  with pytest.raises(errors.InputError, match=words):
    implementations.choose(config, 'cpu')
