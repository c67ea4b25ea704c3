"""Counts against the printed numbers of the paper, and worked by hand."""

import dataclasses
import pathlib

import pytest

from moejax import config
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.moe.routers.top_k import TopK
from moejax.plan import count

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
EXPERTS = ('routed experts', 'shared experts', 'dense feed-forward')


def _load(name):
  return config.load(str(CONFIGS / f'{name}.py'))


@pytest.fixture(scope='module')
def ds_2b():
  return _load('ds_2b')


def _expert_parameters(found):
  return [
    sum(of[part] for part in EXPERTS) / 1e9
    for of in (found.total_of, found.active_of)
  ]


@pytest.mark.parametrize(
  ('name', 'total', 'active', 'teraflops'),
  # arXiv 2401.06066, Table 1.
  [
    ('ds_2b', 2.0, 0.3, 4.3),
    ('gshard_2b', 2.0, 0.3, 4.3),
    ('dense_2b', 0.2, 0.2, 2.9),
  ],
)
def test_table_1_of_the_paper(name, total, active, teraflops):
  run = _load(name)
  assert run.data.sequence_length == 2048
  found = count.count(run.model)
  assert round(found.total / 1e9, 1) == total
  assert round(found.active / 1e9, 1) == active
  assert round(found.flops(2048) / 1e12, 1) == teraflops


def test_the_2b_models_experts_are_those_of_table_2(ds_2b):
  found = count.count(ds_2b.model)
  total, active = _expert_parameters(found)
  assert (round(total, 2), round(active, 2)) == (1.89, 0.24)
  assert (
    round(_expert_parameters(count.count(_load('gshard_2b').model))[0], 2)
    == 1.89
  )


@pytest.mark.parametrize(
  ('experts', 'k', 'size', 'total', 'active', 'teraflops'),
  # arXiv 2401.06066, Tables 2, 8 and 9: size relative to a standard one, whose
  # width is 8/3 of 1280. (The FLOPs of the last are not printed.)
  [
    (16, 2, 1.5, 2.83, 0.35, 5.8),
    (16, 2, 1.2, 2.3, 0.28, None),
    # Dense: there is no router that k would be of.
    (0, 1, 16, 1.89, 1.89, 24.6),
    (0, 1, 4, 0.47, 0.47, None),
  ],
)
def test_the_papers_other_2b_models(
  ds_2b, experts, k, size, total, active, teraflops
):
  width = round(1280 * 8 / 3 * size)
  moe = MoEConfig(num_experts=experts, expert_width=width, router=TopK(k=k))
  model = dataclasses.replace(ds_2b.model, moe=moe, dense_width=width)
  found = count.count(model)
  got = _expert_parameters(found)
  digits = 1 if total == 2.3 else 2
  assert round(got[0], digits) == total
  assert round(got[1], 2) == active
  if teraflops:
    assert round(found.flops(2048) / 1e12, 1) == teraflops


def test_the_2b_model_to_the_last_parameter(ds_2b):
  found = count.count(ds_2b.model)
  d, layers, vocab, expert = 1280, 9, 8192, 3 * 1280 * 853
  assert found.total_of == {
    'embedding': vocab * d,
    'attention': layers * 4 * d * d,
    'dense feed-forward': 0,
    'multi-token prediction': 0,
    'routed experts': layers * 63 * expert,
    'shared experts': layers * expert,
    'routers': layers * 63 * d,
    'norms': (2 * layers + 1) * d,
    'head': vocab * d,
    'vision encoder': 0,
    'vision projector': 0,
  }
  assert found.active_of == {
    **found.total_of,
    'routed experts': layers * 7 * expert,
  }
  assert found.total == 1_967_403_520
  assert found.active == 316_541_440
  total, active = found.without_small
  assert [f'{x / 1e9:.3f}' for x in (total, active)] == ['1.967', '0.316']
  assert found.training_bytes == 12 * found.total
  # 3 [2 T (N_attention + 8 experts + V D) + 4 T^2 D L]
  used = layers * (4 * d * d + 8 * expert) + vocab * d
  flops = 3 * (2 * 2048 * used + 4 * 2048**2 * d * layers)
  assert found.flops(2048) == flops
  assert f'{flops / 1e12:.2f}' == '4.33'
  assert count.flops_per_token(ds_2b.model, 2048) == flops / 2048


def test_the_16b_model_with_a_dense_first_layer():
  # arXiv 2401.06066, section 5.1 and Table 3: 16.4B, 2.8B, 74.4T per 4K.
  model = ModelConfig(
    vocab_size=102400,
    max_length=4096,
    num_layers=28,
    first_dense=1,
    width=2048,
    num_heads=16,
    head_dim=128,
    dense_width=10944,
    moe=MoEConfig(
      num_experts=64, expert_width=1408, num_shared=2, router=TopK(k=6)
    ),
  )
  found = count.count(model)
  assert f'{found.total / 1e9:.4f} {found.active / 1e9:.3f}' == '16.3757 2.829'
  assert found.total_of['dense feed-forward'] == 3 * 2048 * 10944
  # The paper's 74.4T takes 8 D^2 per layer and expert unit, two units active.
  rounding = 28 * 2 * 8 * 2048**2 - sum(
    found.active_of[part] for part in EXPERTS
  )
  papers = found.flops(4096) + 3 * 2 * 4096 * rounding
  assert round(papers / 1e12, 1) == 74.4


def test_grouped_queries_and_tied_embeddings():
  # Small sizes, all different, and heads that are not as wide as the model.
  model = ModelConfig(
    vocab_size=50,
    num_layers=3,
    width=12,
    num_heads=6,
    num_kv_heads=2,
    head_dim=4,
    dense_width=20,
    tie_embeddings=True,
  )
  found = count.count(model)
  # q and output 6 heads, k and v 2 heads.
  attention = 3 * 12 * 4 * (6 + 6 + 2 + 2)
  assert dict((part, total) for part, total, _ in found.rows()) == {
    'embedding': 50 * 12,
    'attention': attention,
    'dense feed-forward': 3 * 3 * 12 * 20,
    'norms': 7 * 12,
  }
  assert found.active == found.total
  # The head costs its FLOPs though it has no parameters of its own.
  used = attention + 3 * 3 * 12 * 20 + 50 * 12
  assert found.flops(10) == 3 * (2 * 10 * used + 4 * 10 * 10 * 6 * 4 * 3)


def test_a_weight_of_no_part_is_an_error():
  with pytest.raises(ValueError, match='moe/ffn/new/w'):
    count._part('moe/ffn/new/w')
