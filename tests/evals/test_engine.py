"""An engine gives what the model gives to each text alone, however batched."""

import collections
import functools
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import errors
from moejax.data.vocab import Bytes
from moejax.evals import generate, likelihood, shapes, shared_prefix, stopped
from moejax.evals.benchmark import Prompt
from moejax.evals.encoding import Encoder, Scored
from moejax.evals.engine import ModelEngine
from moejax.evals.sampling import Sampling

LENGTH = 64
CONFIG = tiny.model_config(
  vocab_size=260, max_length=LENGTH, num_layers=2, first_dense=0
)
QUESTION = 'Question: what is it? Answer:'
PAIRS = [
  (QUESTION, ' a stone'),
  (QUESTION, ' bread'),
  (QUESTION, ' A'),
  (QUESTION, ' B'),
  ('Another question, as long as it is? ', 'yes'),
  ('Another question, as long as it is? ', 'no'),
  ('', ' sentence'),
  ('short', ' one'),
  ('too long ' * 20, 'to be read'),
]


@functools.cache
def trained():
  model = tiny.model(CONFIG)
  return model, tiny.weights(model)


def engine(**changes):
  return ModelEngine(*trained(), Bytes(), **changes)


@functools.partial(jax.jit, static_argnums=0)
def _logits(model, weights, token_BL):
  decoder = model.bind(weights)
  position_BL = jnp.broadcast_to(jnp.arange(token_BL.shape[1]), token_BL.shape)
  out = decoder(token_BL, jnp.ones_like(token_BL), position_BL)
  return decoder.logits(out.x_BLD)


def alone(ids, targets):
  """(log-probability, greedy) of targets by a pass over one row."""
  row = np.zeros((1, LENGTH), np.int32)
  row[0, : len(ids)] = ids
  own = engine()
  logits_LV = np.array(_logits(own.model, own.weights, row)[0], np.float64)
  total, greedy = 0.0, True
  for target, logit_V in zip(
    targets, logits_LV[len(ids) - len(targets) : len(ids)], strict=True
  ):
    total += logit_V[target] - math.log(np.exp(logit_V).sum())
    greedy &= int(np.argmax(logit_V)) == target
  return total, greedy


def as_bytes(text):
  return [byte + 3 for byte in text.encode()]


@pytest.mark.parametrize(
  'few', [pytest.param(False, marks=pytest.mark.soak), True]
)
def test_likelihoods_are_those_of_each_text_alone(few):
  """Whether shapes are many, for much text, or few."""
  answers = engine(few_shapes=few).likelihoods(PAIRS)
  for pair, answer in zip(PAIRS, answers, strict=True):
    context, continuation = pair
    bare = context.rstrip()
    targets = as_bytes(context[len(bare) :] + continuation)
    ids = [0, *as_bytes(bare), *targets[:-1]][-LENGTH:]
    wanted, greedy = alone(ids, targets)
    assert answer.log_prob == pytest.approx(wanted, rel=1e-5), pair
    assert answer.greedy == greedy
    assert answer.tokens == len(targets)


@pytest.mark.soak
def test_any_size_of_a_batch_gives_the_same():
  wanted = engine().likelihoods(PAIRS)
  others = engine(batch_tokens=200).likelihoods(PAIRS[::-1])[::-1]
  for one, other in zip(wanted, others, strict=True):
    assert other.log_prob == pytest.approx(one.log_prob, rel=1e-5)
    assert other.greedy == one.greedy


@pytest.mark.soak
def test_rows_split_over_a_mesh_give_the_same():
  mesh = tiny.mesh(8, data=2, fsdp=2, model=2)
  split = ModelEngine(tiny.model(CONFIG, mesh), trained()[1], Bytes())
  few = PAIRS[:6]
  for one, other in zip(
    engine().likelihoods(few), split.likelihoods(few), strict=True
  ):
    assert other.log_prob == pytest.approx(one.log_prob, rel=1e-5)


@pytest.mark.soak
def test_a_continuation_that_the_model_writes_is_greedy():
  (text,) = engine().generate([Prompt('abc', dict, max_tokens=4)])
  ids = generate.generate(
    engine().model,
    engine().weights,
    [as_bytes('abc')],
    Sampling(),
    max_new_tokens=4,
    end_ids=[1],
  )[0]
  ids = [*ids[:4]]
  assert text == Bytes().decode(ids)
  request = Scored((0, *as_bytes('abc'), *ids[:-1]), tuple(ids))
  wrong = Scored(request.ids, (*ids[:-1], (ids[-1] + 1) % 256))
  scores = likelihood.log_probs(
    engine().model, engine()._placed, [request, wrong]
  )
  assert scores[0][1].all()
  assert list(scores[1][1]) == [True] * (len(ids) - 1) + [False]


def test_a_rolling_text_is_the_sum_of_disjoint_windows():
  text = 'a text that is longer than what the model reads at once, ' * 3
  (answer,) = engine().rolling([text])
  whole = as_bytes(text)
  # lm-evaluation-harness: get_rolling_token_windows, make_disjoint_window.
  windows = [([0, *whole[: LENGTH - 1]], whole[:LENGTH])]
  done = LENGTH
  while done < len(whole):
    size = min(len(whole) - done, LENGTH)
    end = done + size
    windows.append((whole[end - LENGTH - 1 : end - 1], whole[done:end]))
    done = end
  wanted = sum(alone(*window)[0] for window in windows)
  assert answer.log_prob == pytest.approx(wanted, rel=1e-5)
  assert answer.tokens == len(whole)


def test_texts_that_are_cut_are_counted_and_said():
  lines = []
  engine(note=lines.append).likelihoods(PAIRS)
  # 181 bytes and the start token, and all but the last byte of the target.
  cut = 1 + len('too long ' * 20 + 'to be read') - 1 - LENGTH
  assert lines == [
    f'1 of 9 texts are longer than the {LENGTH} tokens that the model reads: '
    f'up to {cut} tokens were cut from their beginning'
  ]


def test_a_prompt_leaves_room_for_what_follows():
  encoder = Encoder(Bytes(), 10)
  ids, cut = encoder.prompts(['abcdefghijkl'], [4])[0]
  assert Bytes().decode(ids) == 'ghijkl'
  assert cut == 7  # six bytes and the start token
  # Where it would leave nothing of the prompt, it gets half of the context.
  assert len(encoder.prompts(['abcdefghijkl'], [10])[0][0]) == 5


class Merging:
  """Bytes, but 'ab' and ' b' are one token each, and there is no start."""

  size, eos_id, first_id, least_id, start = 999, 900, 900, 0, ()
  merges = (('ab', 1), (' b', 2))

  def encode_batch(self, texts):
    return [self.encode(text) for text in texts]

  def encode(self, text):
    for merged, token in self.merges:
      text = text.replace(merged, chr(token))
    return [ord(c) for c in text]


def test_a_token_across_the_border_belongs_to_the_context():
  encoder = Encoder(Merging(), 100)
  a, c, x = map(ord, 'acx')
  # The context alone is one token, so the whole's first token is not scored.
  (merged,) = encoder.pairs([('xa', 'bc')])
  assert merged == Scored((x, a), (c,))
  # White space goes to the continuation, in which it merges.
  (moved,) = encoder.pairs([('xa ', 'b')])
  assert moved == Scored((x, a), (2,))
  # Without a start token, an empty context is the end token.
  for context in ('', '  '):
    (empty,) = encoder.pairs([(context, 'a')])
    assert empty.ids[0] == 900
    assert empty.targets == (*map(ord, context), a)
  # All of the continuation merges into the last token of the context.
  (last,) = encoder.pairs([('xa', 'b')])
  assert last == Scored((x,), (1,))


def test_a_start_token_is_read_and_never_scored():
  encoder = Encoder(Bytes(), 8)
  assert encoder.pairs([('', 'ab')])[0].targets == tuple(as_bytes('ab'))
  assert encoder.pairs([('a', 'b')])[0] == Scored((0, 100), (101,))
  first, *others = encoder.windows('abcdefghijklmnopqrs')
  assert first.ids[0] == 0
  targets = [*first.targets, *(t for w in others for t in w.targets)]
  assert targets == as_bytes('abcdefghijklmnopqrs')


def test_options_share_the_prefix_of_their_question():
  requests = Encoder(Bytes(), LENGTH).pairs(PAIRS)
  rows = likelihood.rows_of(requests)
  # ' A' and ' B' read the same ids: two targets of one row.
  assert [len(row.requests) for row in rows] == [1, 1, 2, 1, 1, 1, 1, 1]
  alone, groups = shared_prefix.split(rows)
  assert [[row.requests for row in group] for group in groups] == [
    [[0], [1], [2, 3]],
    [[4], [5]],
  ]
  assert [row.requests for row in alone] == [[6], [7], [8]]


def test_frequencies_that_depend_on_the_length_share_nothing():
  from moejax.model.attention.rope import Rope
  from moejax.model.attention.rope_scaling import DynamicScaling

  assert not shared_prefix.by_length(CONFIG)
  dynamic = tiny.model_config(rope=Rope(scaling=DynamicScaling()))
  assert shared_prefix.by_length(dynamic)


@pytest.mark.parametrize(
  ('few', 'wanted'),
  [
    (False, {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128}),
    (True, {1, 4, 16, 64, 256}),
  ],
)
def test_buckets_hold_and_are_few(few, wanted):
  rule = shapes.Shapes(trained()[0], 2048, few)
  assert {rule.bucket(n) for n in range(1, 129)} == wanted
  assert all(n <= rule.bucket(n) for n in range(1, 129))


def test_little_text_has_few_shapes():
  """Of 1,000 weights, 1e9 tokens are much and fewer are little."""
  model, weights = trained()[0], {'a': np.zeros(600), 'b': np.zeros((20, 20))}
  assert shapes.LITTLE['cpu'] == 1e12
  assert not shapes.choose(model, weights, [10**9 - 1, 1]).few
  assert shapes.choose(model, weights, [10**9 - 2, 1]).few


def test_the_shapes_of_a_small_benchmark_can_be_counted(monkeypatch):
  """200 questions of many lengths: prefixes of one shape, ends of two."""
  compiled = set()

  def ends(model, weights, cache, length_G, token_RM, size_R, target_RKM):
    compiled.add(('ends', cache, token_RM.shape, target_RKM.shape))
    filled = np.full(target_RKM.shape, -1.0)
    return filled, filled < 0

  def read(model, weights, cache, token_GC, start, length_G):
    compiled.add(('prefixes', cache, token_GC.shape))
    return cache

  monkeypatch.setattr(shared_prefix, '_empty', lambda m, rows, slots: slots)
  monkeypatch.setattr(shared_prefix, '_read', read)
  monkeypatch.setattr(shared_prefix, '_ends', ends)
  monkeypatch.setattr(likelihood.hosts, 'fetch', lambda x: x)
  rng = random.Random(0)
  pairs = []
  for number in range(200):
    question = f'{number:03d} {"?" * rng.randrange(5, 40)}'
    pairs += [
      (question, f' {option}{"!" * rng.randrange(2, 10)}') for option in 'ab'
    ]
  requests = Encoder(Bytes(), LENGTH).pairs(pairs)
  scores = shared_prefix.log_probs(*trained(), requests)
  assert sorted(scores) == [*range(400)]
  assert all(len(scores[i][0]) == len(requests[i].targets) for i in scores)
  kinds = collections.Counter(kind for kind, *_ in compiled)
  assert kinds == {'prefixes': 1, 'ends': 2}


# --- stop strings


@pytest.fixture
def spoken(monkeypatch):
  """Lets `texts` be what the model writes: one list of pieces for each row."""

  def say(*texts):
    ids = [[as_bytes(text) for text in row] for row in texts]

    def stream(model, weights, prompts, sampling, **_):
      for step in range(max(map(len, ids))):
        for row in range(len(ids)):
          if step < len(ids[row]):
            for token in ids[row][step]:
              steps.append(token)
              yield row, token

    steps = []
    monkeypatch.setattr(generate, 'stream', stream)
    return steps

  return say


def stops_at(stops, max_tokens=50, rows=1):
  request = stopped.Request((0, 5), stops, max_tokens)
  settings = stopped.Settings(Sampling(), (1,))
  return stopped.generate(None, None, Bytes(), [request] * rows, settings)


def test_a_stop_string_ends_a_text_and_is_cut_off(spoken):
  steps = spoken(list('one. two'))
  assert stops_at(('.',)) == ['one']
  assert len(steps) == 4  # nothing is generated behind it


def test_a_stop_string_across_tokens_or_at_the_first_character(spoken):
  spoken(['a\n', '\nQ', ': b'])
  assert stops_at(('\n\nQ:',)) == ['a']
  spoken(['\n', 'a'])
  assert stops_at(('\n',)) == ['']


def test_of_several_stop_strings_the_first_in_the_text_counts(spoken):
  spoken(list('a!b.c'))
  assert stops_at(('.', '!')) == ['a']


def test_rows_end_apart(spoken):
  spoken(list('ab.cd'), list('abcdef'))
  assert stops_at(('.',), max_tokens=5, rows=2) == ['ab', 'abcde']


def test_the_end_of_a_text_ends_it(spoken, monkeypatch):
  spoken(['a'])
  monkeypatch.setattr(
    generate, 'stream', lambda *_, **__: iter([(0, 100), (0, 1), (0, 101)])
  )
  assert stops_at(('.',)) == ['a']


@pytest.mark.parametrize(
  ('stops', 'tokens', 'message'),
  [
    (('a', ''), 5, 'a stop string must have a character'),
    (('a',), 0, 'max_tokens=0 must be >= 1'),
  ],
)
def test_a_text_that_cannot_end_is_an_error(stops, tokens, message):
  with pytest.raises(errors.InputError, match=message):
    engine().generate([Prompt('a', dict, stops, tokens)])


@pytest.mark.parametrize(
  ('pair', 'message'),
  [
    (('a', ''), 'is empty: it has no token'),
    (('a', 'b' * 65), 'has 65 tokens, but the model reads 64'),
  ],
)
def test_a_continuation_that_cannot_be_scored_is_an_error(pair, message):
  with pytest.raises(errors.InputError, match=message):
    engine().likelihoods([pair])


def test_a_vocabulary_of_another_model_is_an_error():
  config = tiny.model_config(vocab_size=64)
  small = ModelEngine(tiny.model(config), None, Bytes())
  with pytest.raises(errors.InputError, match='has 259 ids, but the model 64'):
    small.likelihoods([('a', 'b')])


def test_silent_ids_are_left_out_of_a_text(monkeypatch):
  tokens = [*as_bytes('ab'), 259, *as_bytes('c')]
  monkeypatch.setattr(
    generate, 'stream', lambda *_, **__: iter([(0, t) for t in tokens])
  )
  request = stopped.Request((0,), ('bc',), 9)
  settings = stopped.Settings(Sampling(), (1,), silent_ids=(5 + 95,))
  # 'a' is silent, and the stop string goes on over what is left out.
  assert stopped.generate(None, None, Bytes(), [request], settings) == ['']
