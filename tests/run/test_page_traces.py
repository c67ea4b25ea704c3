"""Tokens of a trace and their text, as the page shows them."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import traces

from moejax.analysis.trace_file import TraceFile
from moejax.data.images import vocab as image_vocab
from moejax.data.vocab import Bytes, Ids, SentencePiece
from moejax.page.data import Picture
from moejax.run import page_traces
from moejax.vision.config import VisionConfig
from moejax.vision.front_end import Encoder

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


def seeing(**images):
  """The config of a run that reads images of 2 x 3 patches, 32 x 48 pixels."""
  return SimpleNamespace(
    data=SimpleNamespace(
      images=SimpleNamespace(**{
        'folder': 'photos',
        'token': '<image>',
        'tokens': 6,
        'features': '',
        'prepare': SimpleNamespace(size=(32, 48)),
        **images,
      })
    ),
    model=SimpleNamespace(vision=Encoder(VisionConfig(patch_size=16))),
  )


@pytest.mark.parametrize(
  ('images', 'found'),
  [
    # Two images, one behind the other; of the third the text is cut.
    ({}, [(1, 7, 3), (7, 13, 3)]),
    # Features say nothing of the sides.
    ({'features': 'file'}, [(1, 7, 2), (7, 13, 2)]),
    ({'folder': ''}, []),
  ],
)
def test_images_are_found_among_the_tokens(
  images, found, tmp_path, monkeypatch
):
  monkeypatch.setattr(page_traces.restore, 'run_of', lambda _: seeing(**images))
  vocab = SentencePiece()
  image = image_vocab.token_id(vocab, '<image>')
  trace = traces.made_up(24)
  ids = np.array([5] + [image] * 12 + [5] + [image] * 10)
  # The last run is of two documents, five tokens of each.
  documents = np.array([0] * 19 + [1] * 5)
  object.__setattr__(trace, 'token_T', ids)
  object.__setattr__(trace, 'document_T', documents)
  assert page_traces.pictures_of(tmp_path, vocab, trace) == found


def test_patches_have_places():
  names = page_traces.patches(Picture(4, 10, 3))
  assert names[0] == 'patch 1,1'
  assert names[2:4] == ['patch 1,3', 'patch 2,1']
  assert len(names) == 6
