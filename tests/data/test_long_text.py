"""Long documents in pieces: the ids of the whole, for tokenizers of all kinds.

Pieces are made small here, so that a text that fits has hundreds of cuts.
"""

import hashlib
import io
import json
import random

import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from moejax.data import (
  cache_writer,
  features,
  files,
  long_text,
  request,
  tasks,
  vocab,
)

SMALL = {'PIECE': 400, 'WINDOW': 128, 'TRIES': 8}


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
  for name, value in SMALL.items():
    monkeypatch.setattr(long_text, name, value)


def shipped_text(num=12_000):
  """Some of each domain: prose, code, a dictionary."""
  names = ('minipile_code', 'minipile_speeches', 'minipile_dictionary')
  return '\n'.join(
    ''.join(tasks.TASKS[name].texts('validation'))[:num] for name in names
  )


def odd_text():
  """What tokenizers treat in ways of their own."""
  rng = random.Random(0)
  parts = [
    ' ' * 700,  # longer than a piece
    'a' * 900,
    '=' * 500 + '\n',
    '\r\n\r\n\t\t  \n \n' * 30,
    '漢字かな交じり文は空白なしに続く。' * 60,
    'e\u0301 naïve ﬁ Å \u200b\u00a0 ' * 40,
    '🙂👩\u200d👩\u200d👧 ' * 50,
    '1234567890' * 70,
    "it's 'quoted' don't 12,345.67 x=y; " * 20,
    ''.join(rng.choice('ab \n') for _ in range(3000)),
    ''.join(chr(rng.randrange(32, 0x2FFF)) for _ in range(2000)),
    '<|endoftext|> </s> <pad> <0x41> ' * 20,
  ]
  rng.shuffle(parts)
  return ''.join(parts)


def sentence_piece(path, **options):
  model = io.BytesIO()
  text = shipped_text()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(text.splitlines()),
    model_writer=model,
    vocab_size=600,
    hard_vocab_limit=False,
    minloglevel=2,
    **options,
  )
  path.write_bytes(model.getvalue())
  return vocab.SentencePiece(str(path))


def hugging_face(path, model, trainer, **parts):
  made = tokenizers.Tokenizer(model)
  for name, part in parts.items():
    setattr(made, name, part)
  made.train_from_iterator(shipped_text().splitlines(keepends=True), trainer)
  made.add_special_tokens(['<|endoftext|>'])
  made.save(str(path))
  return vocab.HfTokenizer(str(path))


def byte_level(path):
  """GPT-2's and its heirs': a regular expression, then bytes."""
  return hugging_face(
    path,
    models.BPE(),
    trainers.BpeTrainer(
      vocab_size=700,
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
    pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True),
    decoder=decoders.ByteLevel(),
  )


def without_words(path):
  """Llama 2's: a space before the text, then one sequence of all of it."""
  return hugging_face(
    path,
    models.BPE(byte_fallback=True, unk_token='<unk>', fuse_unk=True),
    trainers.BpeTrainer(
      vocab_size=700,
      special_tokens=['<unk>', *(f'<0x{i:02X}>' for i in range(256))],
      max_token_length=12,
      show_progress=False,
    ),
    normalizer=normalizers.Sequence([
      normalizers.Prepend('▁'),
      normalizers.Replace(' ', '▁'),
    ]),
  )


def unigram(path):
  """Metaspace before every word, and normalised text."""
  return hugging_face(
    path,
    models.Unigram(),
    trainers.UnigramTrainer(
      vocab_size=600,
      unk_token='<unk>',
      special_tokens=['<unk>'],
      show_progress=False,
    ),
    normalizer=normalizers.NFKC(),
    pre_tokenizer=pre_tokenizers.Metaspace(),
  )


def word_piece(path):
  """BERT's: lower case, accents and space away."""
  return hugging_face(
    path,
    models.WordPiece(unk_token='[UNK]'),
    trainers.WordPieceTrainer(
      vocab_size=600, special_tokens=['[UNK]'], show_progress=False
    ),
    normalizer=normalizers.BertNormalizer(),
    pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
  )


TOKENIZERS = {
  'bytes': lambda path: vocab.Bytes(),
  'shipped': lambda path: vocab.SentencePiece(),
  'llama': lambda path: sentence_piece(
    path,
    model_type='bpe',
    byte_fallback=True,
    normalization_rule_name='identity',
    remove_extra_whitespaces=False,
    split_digits=True,
  ),
  # T5's, without bytes for unknown characters: unknown ones in a row are one.
  't5': lambda path: sentence_piece(path, model_type='unigram'),
  'byte_level': byte_level,
  'without_words': without_words,
  'unigram': unigram,
  'word_piece': word_piece,
}


@pytest.fixture(scope='module', params=TOKENIZERS)
def tokenizer(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  return TOKENIZERS[request.param](folder / 'tokenizer')


def joined(chunks, of):
  return [i for ids in long_text.encode(chunks, of) for i in ids]


@pytest.mark.parametrize('text', [shipped_text, odd_text])
def test_pieces_have_the_ids_of_the_whole(tokenizer, text):
  text = text()
  assert joined([text], tokenizer) == tokenizer.encode(text)


@pytest.mark.parametrize('text', [shipped_text, odd_text])
def test_pieces_do_not_depend_on_the_chunks(tokenizer, text):
  text = text()
  rng = random.Random(1)
  chunks, at = [], 0
  while at < len(text):
    size = rng.randrange(1, 900)
    chunks.append(text[at : at + size])
    at += size
  assert joined(chunks, tokenizer) == tokenizer.encode(text)


def test_real_text_is_cut_often(tokenizer):
  text = shipped_text()
  found = list(long_text.pieces([text], tokenizer))
  assert ''.join(piece.text for piece in found) == text
  sizes = [len(piece.text) for piece in found]
  assert max(sizes) < 4 * SMALL['PIECE']
  assert all(len(piece.context) <= long_text.CONTEXT for piece in found)


# Documents in files.

TEXTS = [
  '',
  'one line',
  'é漢🙂\n' * 50,
  'a' * 99 + '\n',
  'no end of a line in the last part ' * 30,
  'x\n' * 7 + 'y' * 40,
]


def in_a_file(path, text, mark=b''):
  path.write_bytes(mark + text.encode())
  return long_text.of_file(path)


@pytest.mark.parametrize('text', TEXTS)
@pytest.mark.parametrize('mark', [b'', b'\xef\xbb\xbf'])
@pytest.mark.parametrize('size', [1, 7, 2**20])
def test_a_file_is_read_as_its_text(text, mark, size, tmp_path, monkeypatch):
  monkeypatch.setattr(long_text, '_CHUNK', size)
  found = in_a_file(tmp_path / 'a.txt', text, mark)
  assert ''.join(found.chunks()) == text
  assert found.num_bytes == len(text.encode())
  assert found.sha256() == hashlib.sha256(text.encode()).digest()
  for fraction in (0.05, 0.3, 0.5, 1.0):
    parts = [''.join(part.chunks()) for part in found.ends(fraction)]
    assert parts == list(files.ends(text, fraction)), fraction
    assert [bool(part) for part in found.ends(fraction)] == [*map(bool, parts)]


@pytest.mark.parametrize('size', [1, 3, 2**20])
@pytest.mark.parametrize(
  ('data', 'at'), [(b'ab\xff', 2), (b'a\xc3', 1), (b'\xef\xbb\xbf\xe6\xbc', 3)]
)
def test_what_is_not_utf8_is_placed_in_the_file(
  data, at, size, tmp_path, monkeypatch
):
  monkeypatch.setattr(long_text, '_CHUNK', size)
  (tmp_path / 'a.txt').write_bytes(data)
  with pytest.raises(UnicodeDecodeError) as caught:
    list(long_text.of_file(tmp_path / 'a.txt').chunks())
  assert caught.value.start == at


def test_a_long_document_is_its_ids_and_their_end(tmp_path):
  ours, text = vocab.SentencePiece(), shipped_text()
  want = [*ours.encode(text), ours.eos_id]
  for made in (text, in_a_file(tmp_path / 'a.txt', text)):
    found = long_text.document(made, ours)
    assert found.num_bytes == len(text.encode())
    parts = list(found.parts)
    assert len(parts) > 10
    assert np.concatenate(parts).tolist() == want


def split(document, sizes):
  """A document as an iterator of arrays."""
  return iter(np.split(document, np.cumsum(sizes)))


@pytest.mark.parametrize('rows', [1, 2, 64])
def test_a_document_in_parts_is_packed_as_in_one(rows):
  rng = np.random.default_rng(0)
  sizes = [5, 40, 1, 33, 2]
  documents = [rng.integers(1, 99, size) for size in sizes]
  cuts = [[2, 3], [1, 16, 16], [], [8, 8, 8, 8, 1], [1]]
  pack = lambda given, **how: list(
    features.pack(given, 8, rows_per_block=rows, **how)
  )
  want = pack(documents)
  parts = lambda first=0: [
    split(d, c) for d, c in zip(documents[first:], cuts[first:], strict=True)
  ]
  assert_same(pack(parts()), want)
  for number, (_, start) in enumerate(want[:-1]):
    rest = pack(parts(start.documents), start=start)
    assert_same(rest, want[number + 1 :])


def assert_same(found, want):
  assert [after for _, after in found] == [after for _, after in want]
  for (rows, _), (others, _) in zip(found, want, strict=True):
    np.testing.assert_array_equal(rows.target_NL, others.target_NL)
    np.testing.assert_array_equal(rows.segment_NL, others.segment_NL)


SPLITS = ('train', 'validation')


def rows_of(tmp_path, name, **options):
  """The rows of both splits, packed anew."""
  request = cache_writer.Request(
    vocab.SentencePiece(), 64, tmp_path / name, **options
  )
  text = files.Files(f'{tmp_path}/texts', bad_lines='skip')
  found = {split: text.rows(split, request) for split in SPLITS}
  return {
    split: (made.rows(np.arange(made.num_rows)), made.meta)
    for split, made in found.items()
  }


@pytest.mark.parametrize(
  'num', [1, 3, pytest.param(250, marks=pytest.mark.soak)]
)
def test_large_files_have_the_rows_that_they_have_in_memory(
  num, tmp_path, monkeypatch
):
  """Whether validation is drawn or cut off, and beside lines and bad files."""
  folder = tmp_path / 'texts'
  folder.mkdir()
  texts = [shipped_text(600 + i) for i in range(num)]
  for i, text in enumerate(texts):
    (folder / f'{i:03}.txt').write_text(text)
  (folder / 'b.jsonl').write_text(json.dumps({'text': odd_text()}))
  (folder / 'c.txt').write_bytes(b'fine until here\xff' + b'x' * 900)
  (folder / 'd.txt').write_bytes(b'x' * 900 + b'\0')
  (folder / 'e.txt').write_bytes(b' \n' * 900)
  whole = rows_of(tmp_path, 'whole')
  for name, value in {'LONG': 500, '_CHUNK': 700}.items():
    monkeypatch.setattr(long_text, name, value)
  long = rows_of(tmp_path, 'long')
  for split in SPLITS:
    (rows, meta), (others, wanted) = long[split], whole[split]
    for a, b in zip(rows, others, strict=True):
      np.testing.assert_array_equal(a, b)
    assert meta.num_documents == wanted.num_documents
    assert meta.num_bytes == wanted.num_bytes
    assert meta.notes == wanted.notes
  (note,) = whole['train'][1].notes
  assert note.startswith('left out 3 bad documents, the first is')


def test_packing_goes_on_within_a_long_document(tmp_path, monkeypatch):
  (tmp_path / 'texts').mkdir()
  (tmp_path / 'texts' / 'a.txt').write_text(shipped_text())
  monkeypatch.setattr(long_text, 'LONG', 500)
  want = rows_of(tmp_path, 'whole', rows_per_shard=4)
  monkeypatch.setattr(request, '_TOKENS_PER_BLOCK', 64)

  class KilledError(Exception):
    pass

  def report(progress):
    if progress.num_tokens > 1000:
      raise KilledError

  with pytest.raises(KilledError):
    rows_of(tmp_path, 'killed', rows_per_shard=4, report=report)
  assert list((tmp_path / 'killed').glob('*.part/00002.rows'))
  found = rows_of(tmp_path, 'killed', rows_per_shard=4)
  for split in SPLITS:
    for a, b in zip(found[split][0], want[split][0], strict=True):
      np.testing.assert_array_equal(a, b)
    assert found[split][1].num_tokens == want[split][1].num_tokens
    assert found[split][1].num_documents == want[split][1].num_documents
