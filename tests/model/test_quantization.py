"""model.quantization: the products that it reaches, and what is refused."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import pytest
from helpers import tiny

from moejax.config import Run
from moejax.core import errors, resume
from moejax.model.attention.heads import Latent
from moejax.moe import self_check
from moejax.moe.compute import quantised_grouped_matmul
from moejax.train.lora import Lora

TOKEN_BL = jnp.ones((1, 4), jnp.int32)
LATENT = Latent(kv_rank=4, rope_dim=4, value_dim=4)


def equations(jaxpr):
  """All equations, those of loops and of other calls included."""
  for equation in jaxpr.eqns:
    yield equation
    for value in jax.tree.leaves(equation.params):
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        yield from equations(inner)


def integer_products(config, gradient=False):
  """How many products have integer factors, by the primitive that computes."""
  model = tiny.model(config)
  weights = tiny.weights(model)

  def run(weights):
    decoder = model.bind(weights)
    out = decoder(TOKEN_BL, TOKEN_BL, TOKEN_BL)
    hidden, out = decoder.predict(out, TOKEN_BL, TOKEN_BL, TOKEN_BL)
    last = hidden[-1] if hidden else out.x_BLD
    return jnp.sum(decoder.logits(last))

  traced = jax.make_jaxpr(jax.grad(run) if gradient else run)(weights)
  found = collections.Counter()
  for equation in equations(traced.jaxpr):
    types = {x.aval.dtype for x in equation.invars if hasattr(x.aval, 'dtype')}
    if 'dot' in str(equation.primitive) and jnp.dtype('int8') in types:
      found[str(equation.primitive)] += 1
  return dict(found)


def quantised(**changes):
  moe = {'grouped_matmul': 'ragged_dot', **changes.pop('moe', {})}
  return tiny.model_config(quantization='int8', moe=moe, **changes)


# The layers of a kind are one loop. A dense one has 4 products of attention and
# 2 of its feed-forward, one with experts 4 of attention, 2 of shared experts,
# and 2 grouped ones. A module of prediction has two before its layer.
@pytest.mark.parametrize(
  ('changes', 'dots'),
  [
    ({}, 6 + 6),
    (
      {
        'heads': Latent(kv_rank=4, rope_dim=4, value_dim=4),
        'num_kv_heads': None,
      },
      6 + 6,
    ),
    ({'moe': {'latent_width': 8}}, 6 + 8),
    ({'mtp_layers': 1}, 6 + 6 + 2 + 6),
  ],
)
def test_all_products_of_layers_are_quantised_and_no_others(changes, dots):
  found = integer_products(quantised(**changes))
  grouped = 4 if 'mtp_layers' in changes else 2
  assert found == {'dot_general': dots, 'ragged_dot_general': grouped}


def test_the_gradient_of_weights_is_not_quantised():
  found = integer_products(quantised(), gradient=True)
  # Forward, and as many for the gradient of the activations.
  assert found == {'dot_general': 2 * 12, 'ragged_dot_general': 2 * 2}


def test_without_it_no_product_is_quantised():
  config = dataclasses.replace(quantised(), quantization='none')
  assert not integer_products(config)


def test_a_run_may_go_on_with_another_one():
  run = Run()
  other = dataclasses.replace(
    run, model=dataclasses.replace(run.model, quantization='int8')
  )
  changes = resume.changes(run, other)
  assert changes[resume.ROUNDING] == {'model.quantization': ('none', 'int8')}
  assert not changes[resume.RESULT]


def test_adapters_are_refused():
  run = Run()
  run = dataclasses.replace(
    run,
    model=dataclasses.replace(run.model, quantization='fp8'),
    train=dataclasses.replace(run.train, lora=Lora(rank=4)),
  )
  with pytest.raises(
    errors.InputError, match=r'model\.quantization=fp8 .*lora'
  ):
    run.check()


def test_the_self_check_is_of_the_quantised_path(monkeypatch):
  config = dataclasses.replace(tiny.MOE, grouped_matmul='ragged_dot')
  size = self_check.Size(rows=1, row_length=16)
  rows = quantised_grouped_matmul.RaggedDot.rows
  monkeypatch.setattr(
    quantised_grouped_matmul.RaggedDot,
    'rows',
    lambda *args: 2 * rows(*args),
  )
  with pytest.raises(errors.StoppedError, match='output of the experts'):
    self_check.run(config, 'float32', tiny.mesh(), 'int8', size)
