"""Fill-in-the-middle: parts in their order, the same for every document."""

import dataclasses
import json
import pickle

import numpy as np
import pytest

from moejax.core import config_tree, errors
from moejax.data import build, config, encoding, fill_in_middle, vocab

TEXTS = [f'def f{n}(x):\n  return x + {n}  # é漢\n' * 3 for n in range(2000)]
CONFIG = fill_in_middle.FillInMiddle(rate=0.5, spm=0.25, ids=(250, 251, 252))
OURS = vocab.Bytes()


def _rearranged(**changes):
  own = dataclasses.replace(CONFIG, **changes)
  return fill_in_middle.Rearranged(OURS, own, 'data.sources.code')


def _restored(ids):
  """The text and the order of a document, by a reader of its own."""
  pre, suf, mid = 250, 251, 252
  if ids[0] != pre:
    return OURS.decode(ids), 'plain'
  where = {mark: ids.index(mark) for mark in (suf, mid)}
  first = OURS.decode(ids[1 : where[suf]])
  suffix = OURS.decode(ids[where[suf] + 1 : where[mid]])
  last = OURS.decode(ids[where[mid] + 1 :])
  order = 'spm' if where[suf] == 1 and last else 'psm'
  # Either way the last part begins where the text before it ends.
  return first + last + suffix, order


def test_nothing_is_lost_and_the_shares_are_right():
  found = [_restored(ids) for ids in _rearranged().encode_documents(TEXTS)]
  assert [text for text, _ in found] == TEXTS
  orders = [order for _, order in found]
  share = {name: orders.count(name) / len(TEXTS) for name in set(orders)}
  assert share['plain'] == pytest.approx(0.5, abs=0.04)
  assert share['spm'] == pytest.approx(0.125, abs=0.03)


def test_the_orders_by_hand(monkeypatch):
  parts = {
    'abcdef': fill_in_middle.Parts(('ab', 'cd', 'ef')),
    'ghijkl': fill_in_middle.Parts(('g', 'hij', 'kl'), spm=True),
    'mno': fill_in_middle.Parts(('mno',)),
  }
  monkeypatch.setattr(fill_in_middle, 'split', lambda text, _: parts[text])
  psm, spm, plain = _rearranged().encode_documents([*parts])
  code = OURS.encode
  assert psm == [250, *code('ab'), 251, *code('ef'), 252, *code('cd')]
  assert spm == [250, 251, *code('kl'), 252, *code('g'), *code('hij')]
  assert plain == code('mno')


def test_a_document_is_cut_alike_wherever_it_stands():
  every = _rearranged(rate=1.0)
  alone = [every.encode_documents([text])[0] for text in TEXTS[:50]]
  assert alone == every.encode_documents(TEXTS)[:50]
  # A higher rate adds documents, and leaves the cuts of the others.
  half = _rearranged().encode_documents(TEXTS[:50])
  assert all(
    a in (b, OURS.encode(text))
    for a, b, text in zip(half, alone, TEXTS[:50], strict=True)
  )


def test_cuts_are_uniform():
  config_ = dataclasses.replace(CONFIG, rate=1.0)
  cuts = [fill_in_middle.split(text, config_).texts for text in TEXTS]
  sizes = np.array([[len(part) for part in parts] for parts in cuts])
  share = sizes.mean(0) / sizes.sum(1).mean()
  np.testing.assert_allclose(share, [1 / 3] * 3, atol=0.03)


def test_a_loaded_tokenizer_is_sent_as_its_fields():
  ours = _rearranged()
  vars(ours.vocab)['loaded'] = object()  # as a tokenizer's library has it
  try:
    sent = pickle.loads(pickle.dumps(ours))
  finally:
    del vars(ours.vocab)['loaded']
  assert sent == ours
  assert 'loaded' not in vars(sent.vocab)


@pytest.mark.parametrize('processes', [1, 2])
def test_processes_rearrange_alike(processes, monkeypatch):
  monkeypatch.setattr(encoding, '_ALONE', 0)
  ours = _rearranged()
  found = [
    ids_T.tolist()
    for ids_T, _ in encoding.documents(iter(TEXTS[:300]), ours, processes)
  ]
  want = ours.encode_documents(TEXTS[:300])
  assert found == [[*ids, OURS.eos_id] for ids in want]


def test_training_text_is_rearranged_and_validation_text_is_not(tmp_path):
  lines = [json.dumps({'text': text}) for text in TEXTS[:400]]
  (tmp_path / 'a.jsonl').write_text('\n'.join(lines))
  flags = [
    ('sources.code.files', str(tmp_path / 'a.jsonl')),
    ('sources.code.fill_in_middle.rate', '1'),
    ('sources.code.fill_in_middle.ids', '250,251,252'),
  ]
  own = config.DataConfig(
    vocab=OURS, sequence_length=64, cache_dir=str(tmp_path / 'cache')
  )
  plain = build.build(config_tree.override_all(own, flags[:1]), 4, 0)
  code = build.build(config_tree.override_all(own, flags), 4, 0)
  before, after = build.identity(plain), build.identity(code)
  assert before['code/validation'] == after['code/validation']
  assert before['code/train'] != after['code/train']
  reader = code.domains['code'].train
  target_NL, _ = reader.rows(np.arange(reader.num_rows))
  marks = [int((target_NL == mark).sum()) for mark in (250, 251, 252)]
  assert len({*marks, reader.meta.num_documents}) == 1
  more = 3 * reader.meta.num_documents
  assert reader.num_tokens == plain.domains['code'].train.num_tokens + more


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'ids': ()}, "'<fim_prefix>' is no special token of data.vocab"),
    ({'ids': (250, 251)}, 'need three ids that differ'),
    ({'ids': (250, 251, 251)}, 'need three ids that differ'),
    ({'ids': (250, 251, 1)}, 'need three ids that differ'),
    ({'ids': (250, 251, 300)}, 'the ids of data.vocab are 1 to 258'),
  ],
)
def test_bad_sentinels_are_one_line(changes, words):
  with pytest.raises(errors.InputError) as caught:
    _rearranged(**changes).fingerprint()
  (line,) = str(caught.value).splitlines()
  assert words in line
  assert line.startswith('data.sources.code')
