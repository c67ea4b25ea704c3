"""Ids of conversations: what is read, what is predicted, what is cut."""

import numpy as np
import pytest
from helpers import spoken

from moejax.convert import tokenizer
from moejax.data import features, vocab
from moejax.data.chat import Chat, messages, tokens

ASK = lambda text: {'role': 'user', 'content': text}
SAY = lambda text: {'role': 'assistant', 'content': text}
TURNS = (ASK('the cat'), SAY('on the mat'), ASK('é漢🙂'), SAY('12\n12'))
SHORT = (ASK('3'), SAY('the'))


def conversation(turns):
  return messages.Conversation('a:1', tuple(turns))


def encode(own, *listed):
  return [*own.encode_conversations([conversation(turns) for turns in listed])]


def read_and_predicted(own, encoded):
  """What a model reads, and what it is to predict."""
  segment_1L = np.ones((1, len(encoded.ids_T)), int)
  batch = features.expand(encoded.ids_T[None], segment_1L, own.first_id)
  return batch.token_BL[0], batch.target_BL[0], batch.weight_BL[0]


@pytest.fixture(scope='module')
def vocabs(tmp_path_factory):
  """Vocabularies of all kinds, those of models with a chat template."""
  root = tmp_path_factory.mktemp('vocabs')
  spoken.FAMILIES['qwen'](root / 'qwen')
  spoken.FAMILIES['llama'](root / 'llama')
  (root / 'qwen' / 'chat_template.jinja').write_text(spoken.CHAT)
  return {
    'bytes': (vocab.Bytes(), 'deepseek'),
    'sentencepiece': (vocab.SentencePiece(), 'vicuna'),
    'qwen': (tokenizer.vocab(root / 'qwen', 512), ''),
    'llama': (tokenizer.vocab(root / 'llama', 512), 'llama_2'),
  }


NAMES = ['bytes', 'sentencepiece', 'qwen', 'llama']


def made(vocabs, name, **changes):
  ours, template = vocabs[name]
  settings = {'length': 1000, **changes}
  loss = settings.pop('loss', 'all_answers')
  return tokens.ChatVocab(ours, Chat(template, loss), **settings)


@pytest.mark.parametrize('name', NAMES)
def test_the_model_reads_what_it_reads_when_it_answers(vocabs, name):
  own = made(vocabs, name)
  (encoded,) = encode(own, TURNS)
  token_L, target_L, weight_L = read_and_predicted(own, encoded)
  first = own.prompt(TURNS[:1])
  # Up to the first target with a loss stands the prompt of generation.
  begins = int(np.argmax(weight_L))
  assert token_L[: begins + 1].tolist() == first
  assert target_L[:begins].tolist() == first[1:]


@pytest.mark.parametrize('name', NAMES)
def test_targets_are_the_answers_with_their_ends(vocabs, name):
  own = made(vocabs, name)
  (encoded,) = encode(own, TURNS)
  _, target_L, weight_L = read_and_predicted(own, encoded)
  edges = np.flatnonzero(np.diff(weight_L, prepend=0, append=0))
  runs = [target_L[a:b] for a, b in edges.reshape(-1, 2)]
  ours = own.vocab
  assert len(runs) == 2
  end = {'qwen': '<|im_end|>'}.get(name) or ours.eos_text()
  ((end_ids, _),) = ours.encode_spans([end], [[]])
  for run, said in zip(runs, ('on the mat', '12\n12'), strict=True):
    assert run[-len(end_ids) :].tolist() == end_ids
    assert ours.decode(run[: -len(end_ids)]).strip() == said
  assert encoded.left_out == 0


@pytest.mark.parametrize('name', NAMES)
def test_ids_are_those_of_the_text_as_a_whole(vocabs, name):
  own = made(vocabs, name)
  (encoded,) = encode(own, TURNS)
  text = own.template.render(TURNS).text.rstrip('\n')
  whole = own.vocab.encode_spans([text], [[]])[0][0]
  skipped = whole[:1] if whole[0] == own.first_id else []
  found = [*skipped, *features.ids(encoded.ids_T)]
  assert own.vocab.decode(found) == own.vocab.decode(whole)
  if name in ('bytes', 'qwen', 'llama'):
    assert found == whole
  assert encoded.num_bytes == len(text.encode())


def test_the_loss_of_the_last_answer_alone(vocabs):
  own = made(vocabs, 'qwen', loss='last_answer')
  (encoded,) = encode(own, TURNS)
  (every,) = encode(made(vocabs, 'qwen'), TURNS)
  np.testing.assert_array_equal(
    features.ids(encoded.ids_T), features.ids(every.ids_T)
  )
  kept = encoded.ids_T[encoded.ids_T >= 0]
  assert own.vocab.decode(kept) == '12\n12'
  assert own.fingerprint() != made(vocabs, 'qwen').fingerprint()


@pytest.mark.parametrize('loss', ['all_answers', 'last_answer'])
def test_long_conversations_lose_whole_answers_at_their_end(vocabs, loss):
  (whole,) = encode(made(vocabs, 'qwen', loss=loss), TURNS)
  (first,) = encode(made(vocabs, 'qwen', loss=loss), TURNS[:2])
  for length in (len(first.ids_T), len(whole.ids_T) - 1):
    own = made(vocabs, 'qwen', length=length, loss=loss)
    (cut,) = encode(own, TURNS)
    np.testing.assert_array_equal(cut.ids_T, first.ids_T)
    assert (cut.left_out, cut.num_bytes) == (1, first.num_bytes)
  own = made(vocabs, 'qwen', length=len(whole.ids_T), loss=loss)
  np.testing.assert_array_equal(encode(own, TURNS)[0].ids_T, whole.ids_T)


def test_an_answer_that_no_row_holds_is_a_problem(vocabs):
  (first,) = encode(made(vocabs, 'qwen'), TURNS[:2])
  length = len(first.ids_T)
  own = made(vocabs, 'qwen', length=length - 1)
  problem, short = encode(own, TURNS, SHORT)
  assert str(problem) == (
    f'its first answer ends at token {length}, and a row has {length - 1} '
    '(data.sequence_length)'
  )
  assert isinstance(short, tokens.Encoded)


def test_one_conversation_does_not_change_another(vocabs):
  own = made(vocabs, 'qwen')
  together = encode(own, TURNS, SHORT)
  alone = [*encode(own, TURNS), *encode(own, SHORT)]
  for a, b in zip(together, alone, strict=True):
    np.testing.assert_array_equal(a.ids_T, b.ids_T)


def test_a_template_with_several_beginnings_keeps_the_start_of_texts(vocabs):
  own = tokens.ChatVocab(vocab.Bytes(), Chat('vicuna'), length=100)
  assert own.template.tokens == {'eos_token': '</s>'}
  # 'USER: ...' or the text of a system message.
  assert (own.first_id, own.start) == (0, (0,))
  (encoded,) = encode(own, SHORT)
  token_L, _, weight_L = read_and_predicted(own, encoded)
  prompt = own.prompt(SHORT[:1])
  assert token_L[: len(prompt)].tolist() == prompt
  assert int(np.argmax(weight_L)) == len(prompt) - 1


def test_what_is_read_in_place_of_special_tokens(vocabs):
  own = made(vocabs, 'bytes')
  assert own.vocab.eos_id not in own.prompt([ASK('a')])
  # An answer's end is the EOS of the vocabulary, whatever its text is.
  (encoded,) = encode(own, SHORT)
  assert encoded.ids_T[-1] == own.vocab.eos_id
