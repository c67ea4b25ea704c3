"""Generation gives what the full forward pass would, row by row."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core import errors
from moejax.evals import generate
from moejax.evals.sampling import Sampling
from moejax.model import build
from moejax.model.attention import cache
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.moe.routers.top_k import TopK
from moejax.parallel import mesh as meshes

GREEDY = Sampling()
# Of no tokens, of some, and of more than one chunk.
PROMPTS = [[], [5, 8, 13], list(range(1, generate.CHUNK + 7))]

BASE = ModelConfig(
  vocab_size=97,
  max_length=120,
  num_layers=2,
  width=32,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  dense_width=48,
)
# All layers are of one kind, which compiles in half the time; texts of models
# with both kinds are compared in tests/convert/test_parity.py.
EXPERTS = dataclasses.replace(
  BASE,
  moe=MoEConfig(num_experts=6, expert_width=16, num_shared=1, router=TopK(k=3)),
)
MODELS = {
  'dense': dataclasses.replace(BASE, tie_embeddings=True, num_kv_heads=1),
  'experts': EXPERTS,
}

EACH = pytest.mark.parametrize(
  'name', [pytest.param('dense', marks=pytest.mark.soak), 'experts']
)


def _build(config, **sizes):
  sizes = meshes.MeshConfig(**{'data': 1, **sizes})
  devices = jax.devices()[: sizes.data * sizes.fsdp * sizes.context]
  return build.build(config, meshes.make(sizes, devices))


def _weights(model):
  """Large ones, so that no two logits are nearly the same."""
  rng = np.random.default_rng(0)
  draw = lambda x: 0.3 * rng.standard_normal(x.shape).astype(x.dtype)
  return jax.tree.map(draw, model.shapes)


@pytest.fixture(scope='module')
def models():
  built = {name: _build(config) for name, config in MODELS.items()}
  return {name: (model, _weights(model)) for name, model in built.items()}


@pytest.fixture(scope='module')
def dense(models):
  return models['dense']


@pytest.fixture(scope='module')
def experts(models):
  return models['experts']


# Rows of `_full_logits`, so that one program does for all texts.
ROWS = len(PROMPTS)


@functools.partial(jax.jit, static_argnums=0)
def _logits(model, weights, token_BL, valid_BL):
  position_BL = jnp.broadcast_to(jnp.arange(token_BL.shape[1]), token_BL.shape)
  decoder = model.bind(weights)
  return decoder.logits(decoder(token_BL, valid_BL, position_BL).x_BLD)


def _full_logits(model, weights, texts):
  """Logits of inputs, by a single pass without a cache."""
  token_BL = np.zeros((ROWS, model.config.max_length), np.int32)
  valid_BL = np.zeros_like(token_BL)
  for row, ids in enumerate(texts):
    token_BL[row, : len(ids)] = ids
    valid_BL[row, : len(ids)] = 1
  return np.asarray(_logits(model, weights, token_BL, valid_BL))


@EACH
def test_greedy_is_the_argmax_of_the_full_forward_pass(models, name):
  model, weights = models[name]
  new = generate.generate(
    model, weights, PROMPTS, GREEDY, max_new_tokens=12, end_ids=[]
  )
  texts = [[0, *p, *n] for p, n in zip(PROMPTS, new, strict=True)]
  logits_BLV = _full_logits(model, weights, texts)
  for row, (prompt, tokens) in enumerate(zip(PROMPTS, new, strict=True)):
    # The answer to input p is token p + 1, so the first comes after the prompt.
    answers = logits_BLV[row].argmax(axis=-1)[len(prompt) :][:12]
    assert tokens == answers.tolist()
  assert len(set(map(tuple, new))) == len(PROMPTS)


@pytest.mark.parametrize(
  ('rows', 'longest', 'chunk'),
  [(1, 1, 64), (1, 128, 64), (1, 129, 256), (8, 129, 128), (16, 999, 64)],
)
def test_few_long_prompts_are_read_in_wide_chunks(rows, longest, chunk):
  assert generate._chunk(rows, longest) == chunk


@pytest.mark.soak
def test_chunks_change_no_text(experts, monkeypatch):
  run = lambda: generate.generate(
    *experts, PROMPTS, GREEDY, max_new_tokens=6, end_ids=[]
  )
  want = run()
  # The longest prompt of 71 tokens in three chunks of 32.
  monkeypatch.setattr(generate, 'CHUNK', 8)
  assert generate._chunk(len(PROMPTS), len(PROMPTS[2]) + 1) == 32
  assert run() == want


@EACH
def test_cached_logits_are_those_of_the_full_forward_pass(models, name):
  model, weights = models[name]
  token_BL = np.array([[0, 4, 9, 2, 7, 7], [0, 3, 1, 0, 0, 0]], np.int32)
  valid_BL = np.array([[1] * 6, [1, 1, 1, 0, 0, 0]], bool)
  later_BL = np.array([[50, 51, 52, 53], [60, 61, 62, 63]], np.int32)
  texts = [[*token_BL[0], *later_BL[0]], [*token_BL[1, :3], *later_BL[1]]]
  want_BLV = _full_logits(model, weights, texts)

  def step(weights, cache, token_BL, position_BL, valid_BL):
    return model.bind(weights).step(token_BL, position_BL, valid_BL, cache)

  step = jax.jit(step)
  slots = cache.empty(model.config, rows=2, slots=16)
  position_BL = np.broadcast_to(np.arange(6), (2, 6))
  logits_BLV, slots = step(weights, slots, token_BL, position_BL, valid_BL)
  got = [list(logits_BLV[0]), list(logits_BLV[1, :3])]
  for i in range(4):
    position_BL = np.array([[6 + i], [3 + i]])
    logits_BLV, slots = step(
      weights, slots, later_BL[:, i : i + 1], position_BL, np.ones((2, 1), bool)
    )
    for row in range(2):
      got[row].append(logits_BLV[row, 0])
  for row, text in enumerate(texts):
    want_LV = want_BLV[row, : len(text)]
    np.testing.assert_allclose(got[row], want_LV, rtol=2e-5, atol=2e-5)


@pytest.mark.soak
def test_a_row_does_not_depend_on_its_neighbours(experts):
  sampling = Sampling(temperature=1.0, top_p=0.9)
  run = lambda *prompts, seed=3: generate.generate(
    *experts, prompts, sampling, max_new_tokens=10, end_ids=[], seed=seed
  )
  a, b, c = [7, 7, 2], [11], PROMPTS[2]
  first = run(a, b, b)
  other = run(a, c, b)
  assert (other[0], other[2]) == (first[0], first[2])
  assert run(c, b, a)[1] == first[1]
  assert run(a, b, b) == first
  assert run(a, b, b, seed=4) != first
  # The same prompt twice is two samples.
  assert first[1] != first[2]


def test_any_of_several_ends_stops_its_own_row_only(dense):
  run = lambda ends: generate.generate(
    *dense, [[5, 8, 13], [40], [9]], GREEDY, max_new_tokens=10, end_ids=ends
  )
  whole = run([])
  others = {*whole[1], *whole[2]}
  eos = next(t for t in whole[0] if t not in others)
  at = whole[0].index(eos)
  assert run([eos]) == [whole[0][: at + 1], *whole[1:]]
  # A row ends at whichever of the list comes first.
  absent = next(t for t in range(97) if t not in {*whole[0], *others})
  last = whole[1][-1]
  cut = lambda row: next(
    (row[: i + 1] for i, t in enumerate(row) if t in (eos, last)), row
  )
  assert run([absent, last, eos]) == [cut(row) for row in whole]


def test_a_start_that_is_written_out_is_not_put_twice(dense):
  # Three rows, whose program the other tests have compiled.
  run = lambda prompt, start: generate.generate(
    *dense, [prompt] * 3, GREEDY, max_new_tokens=4, end_ids=[], start=start
  )
  assert generate.begun([5, 8], [1, 2]) == [1, 2, 5, 8]
  assert generate.begun([1, 2, 5], [1, 2]) == [1, 2, 5]
  assert generate.begun([1, 5], [1, 2]) == [1, 2, 1, 5]
  assert generate.begun([], []) == []
  assert run([7, 5, 8], [7]) == run([5, 8], [7]) == run([7, 5, 8], [])


def test_stream_gives_out_tokens_of_all_rows_in_turn(dense):
  tokens = generate.stream(
    *dense, [[5], [6], [7]], GREEDY, max_new_tokens=2, end_ids=[]
  )
  assert [row for row, _ in tokens] == [0, 1, 2, 0, 1, 2]


def test_texts_end_where_the_model_does(dense):
  model, weights = dense
  room = model.config.max_length
  prompts = [[3] * (room - 3), [5], [6] * (room - 11)]
  new = generate.generate(
    model, weights, prompts, GREEDY, max_new_tokens=11, end_ids=[]
  )
  assert [len(n) for n in new] == [3, 11, 11]
  full = [0, *prompts[2], *new[2][:-1]]
  assert len(full) == room
  logits_BLV = _full_logits(model, weights, [full])
  assert new[2] == logits_BLV[0, -11:].argmax(axis=-1).tolist()


@pytest.mark.parametrize(
  ('prompts', 'tokens', 'message'),
  [
    ([[5], [3] * 120], 8, r'prompt 1 has 120 tokens.*max_length=120.*119'),
    ([[5, 97]], 8, r'prompt 0 has the token id 97.*vocab_size=97'),
    ([[-1]], 8, r'token id -1'),
    ([[5]], 0, r'max_new_tokens=0'),
  ],
)
def test_bad_prompts_are_refused_before_any_work(prompts, tokens, message):
  model = _build(EXPERTS)
  with pytest.raises(errors.InputError, match=message):
    generate.stream(
      model, None, prompts, GREEDY, max_new_tokens=tokens, end_ids=[1]
    )


def test_no_prompts_no_texts(experts):
  assert not generate.generate(
    *experts, [], GREEDY, max_new_tokens=8, end_ids=[1]
  )


@pytest.mark.soak
@pytest.mark.parametrize(
  'sizes',
  [
    {'data': 2, 'fsdp': 2},
    pytest.param({'data': 2, 'context': 2}, marks=pytest.mark.soak),
  ],
  ids=str,
)
def test_a_mesh_changes_nothing(experts, sizes):
  run = lambda model: generate.generate(
    model, experts[1], PROMPTS, GREEDY, max_new_tokens=6, end_ids=[]
  )
  # Three prompts over four devices: one row fills up.
  assert run(_build(EXPERTS, **sizes)) == run(experts[0])


def _draws(sampling, logits_V, count):
  key_B = jax.random.split(jax.random.key(0), count)
  logits_BV = jnp.broadcast_to(jnp.asarray(logits_V), (count, len(logits_V)))
  token_B = jax.jit(sampling.choose)(logits_BV, key_B)
  return np.bincount(np.asarray(token_B), minlength=len(logits_V))


def _chi_square(count_V, prob_V):
  want_V = np.asarray(prob_V) * count_V.sum()
  return float(np.sum((count_V - want_V) ** 2 / want_V))


def test_draws_follow_the_softmax_at_a_temperature():
  logits_V = np.array([0.0, 1.0, 2.0, -1.0, 0.5], np.float32)
  count_V = _draws(Sampling(temperature=2.0), logits_V, 20_000)
  # With 4 degrees of freedom 18.5 is passed by one seed in a thousand.
  assert _chi_square(count_V, jax.nn.softmax(logits_V / 2)) < 18.5
  assert _chi_square(count_V, jax.nn.softmax(logits_V)) > 1000


def test_draws_are_renormalised_over_what_top_p_keeps():
  logits_V = np.log(np.array([0.1, 0.5, 0.3, 0.1], np.float32))
  sampling = Sampling(temperature=1.0, top_p=0.7)
  count_V = _draws(sampling, logits_V, 20_000)
  assert count_V[0] == count_V[3] == 0
  assert _chi_square(count_V[1:3], [0.625, 0.375]) < 10.8


@pytest.mark.parametrize(
  ('limits', 'kept'),
  [
    ({'top_p': 0.45}, {1}),
    ({'top_p': 0.51}, {1, 2}),
    ({'top_p': 0.7}, {1, 2}),
    ({'top_p': 0.85}, {0, 1, 2}),  # of two that are equal the first
    ({'top_p': 0.95}, {0, 1, 2, 3}),
    ({'top_p': 1e-9}, {1}),
    ({}, {0, 1, 2, 3}),
    ({'top_k': 1}, {1}),
    ({'top_k': 3}, {0, 1, 2}),
    ({'top_k': 9}, {0, 1, 2, 3}),
    # 0.5 of the 0.8 that top_k leaves is 0.625.
    ({'top_k': 2, 'top_p': 0.6}, {1}),
    ({'top_k': 2, 'top_p': 0.65}, {1, 2}),
  ],
)
def test_top_p_and_top_k_keep_exactly(limits, kept):
  logits_BV = np.log(np.array([[0.1, 0.5, 0.3, 0.1]], np.float32))
  found_BV = Sampling(temperature=1.0, **limits).limit(logits_BV)
  assert set(np.flatnonzero(np.isfinite(found_BV[0]))) == kept


def test_top_p_is_of_the_probabilities_at_the_temperature():
  # Squared and divided by their sum: 0.028, 0.694, 0.25, 0.028.
  logits_BV = np.log(np.array([[0.1, 0.5, 0.3, 0.1]], np.float32))
  found_BV = Sampling(temperature=0.5, top_p=0.6).limit(logits_BV)
  assert set(np.flatnonzero(np.isfinite(found_BV[0]))) == {1}


@pytest.mark.parametrize(
  'wrong',
  [{'temperature': -1.0}, {'top_p': 0.0}, {'top_p': 1.5}, {'top_k': -1}],
)
def test_sampling_that_makes_no_sense_is_refused(wrong):
  (name,) = wrong
  with pytest.raises(errors.InputError, match=f'{name}='):
    Sampling(**wrong)
