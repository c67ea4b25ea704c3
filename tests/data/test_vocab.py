"""Vocabularies without TensorFlow: round trips, reserved ids, bad files."""

import functools
import json
import os
import pathlib
import random
import sys
import threading

import pytest
import sentencepiece
import tokenizers

from moejax.core import errors
from moejax.data import seqio_bridge, tasks, vocab

TEXTS = [
  '',
  ' ',
  '  two  spaces  ',
  '\n\n\ttab\r\nline\n',
  'def f(x):\n    return x  # 4 spaces\n',
  'é漢字🙂 naïve \u00a0 \u2028 \ufeff',
  '\x00\x01\x7f control',
  '</s> <unk> <pad> <0x41> <|endoftext|>',
]


@pytest.fixture(scope='module')
def hf_path(tmp_path_factory):
  """A byte-level BPE whose id 0 is a real token, as GPT-2's is."""
  model = tokenizers.Tokenizer(tokenizers.models.BPE())
  model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  model.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=300,
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    special_tokens=[],
    show_progress=False,
  )
  model.train_from_iterator(['the cat sat on the mat'] * 3, trainer)
  model.add_special_tokens(['<|endoftext|>'])
  model.enable_truncation(5)
  model.enable_padding(length=5)
  path = tmp_path_factory.mktemp('hf') / 'tokenizer.json'
  model.save(str(path))
  return str(path)


@pytest.fixture(params=sorted(vocab.VOCABS.keys() - {'ids'}))
def some_vocab(request, hf_path):
  kwargs = {'path': hf_path} if request.param == 'hf_tokenizer' else {}
  return vocab.VOCABS[request.param](**kwargs)


def _random_texts():
  rng = random.Random(0)
  for _ in range(100):
    points = [
      rng.choice([rng.randrange(32, 127), rng.randrange(0x110000), 10, 32])
      for _ in range(rng.randrange(30))
    ]
    text = ''.join(map(chr, points))
    yield text.encode(errors='ignore').decode().replace('\u2581', '')


def test_any_text_comes_back(some_vocab):
  for text in [*TEXTS, *_random_texts()]:
    assert some_vocab.decode(some_vocab.encode(text)) == text


def test_ids_of_text_are_inside_and_reserved_ones_never_appear(some_vocab):
  for text in [*TEXTS, *_random_texts()]:
    for i in some_vocab.encode(text):
      assert 0 < i < some_vocab.size
      assert i != some_vocab.eos_id
  assert 0 < some_vocab.eos_id < some_vocab.size


def test_a_batch_encodes_as_its_texts(some_vocab):
  found = some_vocab.encode_batch(TEXTS)
  assert found == [some_vocab.encode(text) for text in TEXTS]


def test_decoding_leaves_out_padding_eos_and_what_is_outside(some_vocab):
  ids = some_vocab.encode('a cat')
  eos, size = some_vocab.eos_id, some_vocab.size
  assert some_vocab.decode([0, *ids, 0, eos, size, size + 9]) == 'a cat'
  assert some_vocab.decode([]) == ''


def test_the_byte_vocabulary_is_bytes_plus_three():
  assert vocab.Bytes().encode('hi') == [107, 108]
  assert vocab.Bytes().encode('é') == [0xC3 + 3, 0xA9 + 3]
  assert (vocab.Bytes().size, vocab.Bytes().eos_id) == (259, 1)
  assert vocab.Bytes().decode([0xC3 + 3]) == ''  # half a character


def test_the_shipped_model_is_what_it_says():
  model = vocab.SentencePiece()
  assert (model.size, model.eos_id) == (8192, 1)
  processor = sentencepiece.SentencePieceProcessor(
    model_file=str(vocab.SHIPPED)
  )
  assert processor.pad_id() == 0
  assert processor.unk_id() == 2
  assert processor.bos_id() == -1
  assert 2 not in model.encode('漢字 \u0bf5')  # bytes stand in
  assert len(model.encode('\n\n\n')) == 3
  assert len(model.encode('        ')) == 1


def test_the_shipped_model_gives_the_minipile_back():
  model = vocab.SentencePiece()
  for name in ('minipile_code', 'minipile_factbook', 'minipile_speeches'):
    num_bytes = num_tokens = 0
    for text in tasks.TASKS[name].texts('validation'):
      ids = model.encode(text)
      assert model.decode(ids) == text
      num_bytes += len(text.encode())
      num_tokens += len(ids)
    assert num_bytes / num_tokens > 3


def test_a_sentencepiece_model_without_padding_is_shifted(tmp_path):
  """As Llama's: unknown 0, BOS 1, EOS 2."""
  path = tmp_path / 'other.model'
  with path.open('wb') as out:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(['the cat sat on the mat'] * 9),
      model_writer=out,
      model_type='bpe',
      vocab_size=290,
      byte_fallback=True,
      minloglevel=2,
    )
  model = vocab.SentencePiece(str(path))
  plain = sentencepiece.SentencePieceProcessor(model_file=str(path))
  assert model.encode('the mat') == [i + 1 for i in plain.encode('the mat')]
  assert model.encode_batch(['the mat'])[0] == model.encode('the mat')
  assert model.decode(model.encode('the mat')) == 'the mat'
  assert (model.eos_id, model.size) == (3, 291)


def test_hugging_face_ids_are_shifted_by_one(hf_path):
  model = vocab.HfTokenizer(hf_path)
  plain = tokenizers.Tokenizer.from_file(hf_path)
  plain.no_padding()
  plain.no_truncation()
  text = 'the cat sat on the mat, and !'
  assert 0 in plain.encode(text).ids  # '!' is a real token with id 0
  assert model.encode(text) == [i + 1 for i in plain.encode(text).ids]
  assert model.eos_id == plain.token_to_id('<|endoftext|>') + 1
  assert model.size == plain.get_vocab_size() + 1


def test_what_a_text_begins_with(hf_path):
  """In training: id 0, else the model's start token, else the end of texts."""
  end = tokenizers.Tokenizer.from_file(hf_path).token_to_id('<|endoftext|>')
  of = functools.partial(vocab.HfTokenizer, hf_path)
  for ours, start, first_id in (
    (vocab.Bytes(), (0,), 0),
    (vocab.SentencePiece(), (0,), 0),
    (of(), (0,), 0),
    (of(shift=0), (), end),
    (of(shift=0, start_token='<|endoftext|>'), (end,), end),
  ):
    assert (ours.start, ours.first_id) == (start, first_id)
    assert ours.least_id == (0 if getattr(ours, 'shift', 1) == 0 else 1)


def test_fingerprints_differ_by_what_they_encode(hf_path, tmp_path):
  tree = json.loads(pathlib.Path(hf_path).read_text())
  tree['model']['merges'] = tree['model']['merges'][:-1]
  other = tmp_path / 'tokenizer.json'
  other.write_text(json.dumps(tree))
  found = {
    v.fingerprint()
    for v in (
      vocab.Bytes(),
      vocab.SentencePiece(),
      vocab.HfTokenizer(hf_path),
      vocab.HfTokenizer(str(other)),
    )
  }
  assert len(found) == 4


@pytest.mark.parametrize(
  ('make', 'words'),
  [
    (lambda p: vocab.SentencePiece('/no/m.model'), ['/no/m.model', 'No such']),
    (lambda p: vocab.SentencePiece(p), ['not a SentencePiece model']),
    (lambda p: vocab.HfTokenizer('/no/t.json'), ['/no/t.json', 'No such']),
    (
      lambda p: vocab.HfTokenizer(p),
      ['not a tokenizer.json: it is not JSON', 'name=sentencepiece'],
    ),
    (
      lambda _: vocab.HfTokenizer(str(vocab.SHIPPED)),
      ['for a SentencePiece model set data.vocab.name=sentencepiece'],
    ),
  ],
)
def test_bad_files_are_one_line(make, words, tmp_path):
  path = tmp_path / 'bad'
  path.write_text('nothing of the kind')
  with pytest.raises(errors.InputError) as caught:
    make(str(path)).encode('a')
  assert len(str(caught.value).splitlines()) == 1
  assert str(caught.value).startswith('data.vocab.path=')
  for word in words:
    assert word in str(caught.value)


def test_a_tokenizer_json_is_told_from_a_sentencepiece_model(tmp_path):
  path = tmp_path / 'tokenizer.json'
  path.write_text('{"version": "1.0"}')
  with pytest.raises(errors.InputError) as caught:
    vocab.SentencePiece(str(path)).encode('a')
  assert 'but a tokenizer.json: set data.vocab.name=hf_tokenizer' in str(
    caught.value
  )


def test_an_unknown_eos_token_lists_the_special_ones(hf_path):
  with pytest.raises(errors.InputError, match=r"'</s>'.*<\|endoftext\|>"):
    _ = vocab.HfTokenizer(hf_path, eos_token='</s>').eos_id


@pytest.mark.parametrize(
  ('package', 'use', 'what', 'install'),
  [
    (
      'sentencepiece',
      lambda p: vocab.SentencePiece().encode('a'),
      'data.vocab.name=sentencepiece needs sentencepiece',
      'sentencepiece',
    ),
    (
      'tokenizers',
      lambda p: vocab.HfTokenizer(p).encode('a'),
      'data.vocab.name=hf_tokenizer needs tokenizers',
      'tokenizers',
    ),
    (
      'seqio',
      lambda p: vocab.Bytes().to_seqio(),
      'the vocabulary needs SeqIO and TensorFlow',
      "'moejax[seqio]'",
    ),
  ],
)
def test_a_missing_package_is_one_line(
  package, use, what, install, hf_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, package, None)  # as if not installed
  with pytest.raises(errors.InputError) as caught:
    use(hf_path)
  message = str(caught.value)
  assert len(message.splitlines()) == 1
  assert message.startswith(what)
  assert f'pip install {install}' in message


def test_a_package_that_cannot_be_loaded_is_one_line_too():
  """NumPy says in forty lines that it was built for another Python."""
  with (
    pytest.raises(errors.InputError) as caught,
    seqio_bridge.needed('this', 'that', 'do without'),
  ):
    raise ImportError('broken\nand more\n')
  assert str(caught.value) == (
    'this needs that, which cannot be imported here (broken): pip install '
    'that, or do without'
  )


@pytest.mark.parametrize(
  'make', [vocab.SentencePiece, lambda path: vocab.HfTokenizer(path, '</s>')]
)
def test_a_named_pipe_is_no_tokenizer(make, tmp_path):
  """Reading one waits for ever if nobody writes to it."""
  path = tmp_path / 'pipe'
  os.mkfifo(path)
  # Whoever reads it all the same gets an empty file.
  writer = threading.Thread(target=lambda: path.open('wb').close(), daemon=True)
  writer.start()
  with pytest.raises(errors.InputError, match='is a named pipe, not a file; c'):
    _ = make(str(path)).size
  reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
  writer.join()
  os.close(reader)
