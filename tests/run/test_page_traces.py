"""Tokens of a trace and their text, as the page shows them."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import traces

from moejax.analysis.trace_file import TraceFile
from moejax.data.vocab import Bytes, Ids, SentencePiece
from moejax.run import page_traces

TEXT = 'def f(x):\n    return x  # the end\n'


@pytest.mark.parametrize('vocab', [SentencePiece(), Bytes()], ids=['sp', 'b'])
def test_texts_of_tokens_add_up_to_the_document(vocab):
  ids = vocab.encode(TEXT)
  trace = traces.made_up(len(ids))
  both = np.zeros(len(ids), np.int32)
  trace = trace.only(np.arange(len(ids)))
  object.__setattr__(trace, 'token_T', np.array(ids))
  object.__setattr__(trace, 'document_T', both)
  shown = page_traces.texts(vocab, trace)
  assert len(shown) == len(ids)
  assert ''.join(shown) == TEXT


def test_a_token_without_text_has_a_mark():
  vocab = SentencePiece()
  trace = traces.made_up(2)
  object.__setattr__(trace, 'token_T', np.array([0, vocab.eos_id]))
  object.__setattr__(trace, 'document_T', np.array([0, 0]))
  assert page_traces.texts(vocab, trace) == ['·', '·']


class Stripping(SentencePiece):
  """As tokenizers that put a space before every text, and remove it again."""

  def decode(self, ids):
    return super().decode(ids).removeprefix(' ')


@pytest.mark.parametrize('vocab', [SentencePiece(), Stripping()])
def test_words_keep_their_space(vocab):
  the = vocab.encode('in the')[-1]
  assert page_traces.words(vocab, [the]) == {the: ' the'}


def test_ids_stand_for_themselves_without_a_tokenizer():
  assert page_traces.words(Ids(10), [3]) == {3: ' 3'}


def test_text_of_another_tokenizer_is_not_shown(tmp_path, monkeypatch):
  run = SimpleNamespace(data=SimpleNamespace(vocab=Bytes()))
  monkeypatch.setattr(page_traces.restore, 'run_of', lambda _: run)
  assert page_traces.vocab_of(tmp_path, 'bytes+3') == Bytes()
  assert page_traces.vocab_of(tmp_path, 'another') is None


def test_ids_of_the_vocabulary_measure_are_listed_once():
  rows = {'a': {'tokens': [[7, 1, 1, 1], [3, 1, 1, 1]]}, 'b': {'tokens': [[7]]}}
  assert page_traces.listed({'vocabulary': rows}) == [3, 7]
  assert page_traces.listed({}) == []


def test_the_beginning_of_each_domain_is_read(tmp_path, monkeypatch):
  monkeypatch.setattr(page_traces, 'TOKENS', 5)
  whole = traces.made_up(40)
  batches = [whole.only(np.arange(i, i + 10)) for i in range(0, 40, 10)]
  path = traces.write(tmp_path / '00000100.parquet', batches)
  kept = page_traces.beginnings(TraceFile(path))
  want = np.concatenate([
    np.flatnonzero(whole.domain_T == domain)[:5] for domain in (0, 1)
  ])
  np.testing.assert_array_equal(kept.token_T, whole.token_T[want])
  np.testing.assert_array_equal(kept.expert_TNK, whole.expert_TNK[want])
