"""Places of parts of a text among its ids."""

import numpy as np
import pytest
from helpers import spoken

from moejax.convert import tokenizer
from moejax.data import vocab, vocab_spans

TEXT = ' the cat, é漢🙂 on\n\nthe mat12 '


def test_offsets_by_hand():
  offsets = [(0, 2), (2, 8), (8, 9)]
  spans = [(3, 9), (0, 2), (1, 3), (8, 9), (2, 2)]
  assert vocab_spans.by_offsets(offsets, spans) == [
    (1, 3), (0, 1), (0, 2), (2, 3), (1, 1),
  ]  # fmt: skip


def test_a_character_of_several_ids_is_in_its_part_whole():
  offsets = [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)]
  assert vocab_spans.by_offsets(offsets, [(1, 2)]) == [(1, 4)]


@pytest.fixture(scope='module')
def vocabs(tmp_path_factory):
  root = tmp_path_factory.mktemp('vocabs')
  found = {'bytes': vocab.Bytes(), 'sentencepiece': vocab.SentencePiece()}
  for name in ('qwen', 'llama', 'gpt_2'):
    spoken.FAMILIES[name](root / name)
    found[name] = tokenizer.vocab(root / name, 512)
  spoken.sentencepiece_only(root / 'model')
  found['llama_model'] = tokenizer.vocab(root / 'model', 512)
  return found


NAMES = ['bytes', 'sentencepiece', 'qwen', 'llama', 'gpt_2', 'llama_model']


@pytest.mark.parametrize('name', NAMES)
def test_parts_decode_to_their_text(vocabs, name):
  ours, rng = vocabs[name], np.random.default_rng(0)
  borders = [sorted(rng.choice(len(TEXT) + 1, 4, False)) for _ in range(30)]
  spans = [[(int(a), int(b)), (int(c), int(d))] for a, b, c, d in borders]
  for wanted, (ids, places) in zip(
    spans, ours.encode_spans([TEXT] * 30, spans), strict=True
  ):
    for (start, end), (first, last) in zip(wanted, places, strict=True):
      # All of the part; and what it is merged with, at its ends only.
      assert TEXT[start:end].strip() in ours.decode(ids[first:last])
      inner = ours.decode(ids[first + 1 : last - 1]).replace('\ufffd', '')
      assert inner.strip() in TEXT[start:end]


@pytest.mark.parametrize('name', NAMES)
def test_without_parts_the_ids_are_those_of_a_prompt(vocabs, name):
  ours = vocabs[name]
  ((ids, places),) = ours.encode_spans([TEXT], [[]])
  assert (ids, places) == (ours.encode_prompt(TEXT), [])


@pytest.mark.parametrize('name', NAMES)
def test_the_end_of_a_text_is_one_id(vocabs, name):
  ours = vocabs[name]
  ((ids, places),) = ours.encode_spans(
    [f'the {ours.eos_text()}'], [[(4, 4 + len(ours.eos_text()))]]
  )
  assert ids[places[0][0] : places[0][1]] == [ours.eos_id]
