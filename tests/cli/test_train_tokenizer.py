"""The command that made the shipped vocabulary makes it again."""

import json

import numpy as np
import pytest
import sentencepiece

from moejax.cli import train_tokenizer
from moejax.core import errors
from moejax.data import long_text, vocab
from moejax.data import train_tokenizer as training


@pytest.mark.soak
def test_the_shipped_model_is_made_again(tmp_path, capsys):
  path = tmp_path / 'again.model'
  train_tokenizer.main([f'--output={path}'])
  assert '8192 pieces' in capsys.readouterr().out
  # Its pieces, not its bytes: those also hold SentencePiece's own settings.
  again, shipped = (
    sentencepiece.SentencePieceProcessor(model_file=str(p))
    for p in (path, vocab.SHIPPED)
  )
  pieces = [
    [(m.id_to_piece(i), m.get_score(i)) for i in range(m.get_piece_size())]
    for m in (again, shipped)
  ]
  assert pieces[0] == pieces[1]


def test_a_vocabulary_of_own_files(tmp_path):
  (tmp_path / 'a.txt').write_text('  some words, é\n' * 99)
  path = tmp_path / 'own.model'
  train_tokenizer.main([
    f'--files={tmp_path}/*.txt',
    '--size=280',
    f'--output={path}',
  ])
  model = vocab.SentencePiece(str(path))
  assert model.size == 280
  assert model.decode(model.encode('\n  any 漢')) == '\n  any 漢'


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--files={}/a.txt'], 'required: --output'),
    (
      ['--files={}/a.txt', '--output={}/o'],
      'not enough .* take --size=\\d+ or less',
    ),
    (['--files={}/b.txt', '--output={}/o'], 'no file there matches'),
    (['--files={}/a.txt', '--output={}/a.txt/o'], 'there is no folder'),
    (['--files={}/a.txt', '--output={}/a.txt'], 'is there already'),
    (
      ['--files={}/a.txt', '--output={}/o', '--size=270'],
      'more characters than that; take --size=2[78]\\d or more',
    ),
    (['--size=1', '--output={}/o'], '--size=1 must be from 261'),
    (['--config.seed=1', '--output={}/o'], '--config.seed is nothing to'),
    (['--text_field=a', '--output={}/o'], "text_field='a' is the field of"),
    (['--config.data.fils=1', '--output={}/o'], "did you mean 'data.files'"),
    (['--config.data.mixture=c4', '--output={}/o'], 'download some of it'),
    (
      ['--files={}/a.txt', '--config.data.files={}/b.txt', '--output={}/o'],
      'data.files=.*a.txt and data.files=.*b.txt contradict each other',
    ),
    (
      ['--files={}/bad.jsonl', '--output={}/o'],
      'bad.jsonl:2: .* leave them out with data.bad_lines=skip',
    ),
  ],
)
def test_bad_input_is_one_line(flags, words, tmp_path):
  (tmp_path / 'a.txt').write_text('the quick brown fox jumps over\n' * 9)
  (tmp_path / 'bad.jsonl').write_text('{"text": "one"}\n{"text": \n')
  with pytest.raises(errors.InputError, match=words) as caught:
    train_tokenizer.main([flag.format(tmp_path) for flag in flags])
  assert len(str(caught.value).splitlines()) == 1


def test_bad_lines_are_skipped_as_in_training(tmp_path, capsys):
  good = json.dumps({'text': 'the quick brown fox jumps over'})
  (tmp_path / 'a.jsonl').write_text(f'{good}\n' * 50 + '{"text": \n')
  train_tokenizer.main([
    f'--config.data.files={tmp_path}/a.jsonl',
    '--config.data.bad_lines=skip',
    f'--output={tmp_path}/o.model',
    '--size=290',
  ])
  out = capsys.readouterr().out
  assert 'a.jsonl:51' in out
  assert '290 pieces' in out


def test_a_line_of_any_length_is_learned_from(tmp_path):
  """SentencePiece by itself leaves lines over its limit out."""
  word = 'Donaudampfschifffahrtsgesellschaft '
  path = tmp_path / 'one_line.txt'
  path.write_text(word * 40_000)
  assert path.stat().st_size > training._TRAINER_BYTES
  flags = [f'--files={path}', f'--output={tmp_path}/o.model', '--size=300']
  train_tokenizer.main(flags)
  model = vocab.SentencePiece(f'{tmp_path}/o.model')
  assert len(model.encode(word)) < len(word) / 2


def test_lines_are_cut_before_words_and_lose_nothing(monkeypatch):
  monkeypatch.setattr(training, '_LONGEST_LINE', 20)
  texts = ['short\n\nand one that is too long for it\n', 'x' * 45]
  assert list(training.lines_of(texts)) == [
    'short',
    'and one that is too',
    ' long for it',
    'x' * 20,
    'x' * 20,
    'x' * 5,
  ]


def test_a_long_text_has_the_lines_of_its_whole(tmp_path, monkeypatch):
  monkeypatch.setattr(long_text, '_CHUNK', 7)
  text = 'one line\nanother é\n\nand the end'
  path = tmp_path / 'a.txt'
  path.write_text(text)
  long = long_text.of_file(path)
  lines = ['one line', 'another é', 'and the end']
  assert list(training.lines_of([long, text])) == 2 * lines


def test_a_sample_is_spread_evenly_and_the_same_each_time():
  lines = [f'{i:07}' for i in range(40_000)]
  whole, share = training.sample(lines, 7 * 40_000)
  assert (whole, share) == (lines, 1.0)
  some, share = training.sample(iter(lines), 70_000)
  assert share == 0.25 or share == 0.125
  assert 7 * len(some) <= 70_000
  assert some == sorted(some)
  assert training.sample(lines, 70_000) == (some, share)
  # Each quarter of the text has its part of the sample: 2,500 x 1/4 or 1/8 of
  # 10,000 lines, within five standard deviations of the binomial distribution.
  counts = np.bincount([int(line) // 10_000 for line in some], minlength=4)
  mean = 10_000 * share
  assert (abs(counts - mean) < 5 * (mean * (1 - share)) ** 0.5).all()


def test_a_model_that_is_there_is_replaced_on_request_alone(tmp_path):
  (tmp_path / 'a.txt').write_text('the quick brown fox jumps over\n' * 99)
  path = tmp_path / 'o.model'
  path.write_bytes(b'precious')
  flags = [f'--files={tmp_path}/a.txt', f'--output={path}', '--size=290']
  with pytest.raises(errors.InputError, match='--overwrite'):
    train_tokenizer.main(flags)
  assert path.read_bytes() == b'precious'
  train_tokenizer.main([*flags, '--overwrite'])
  assert vocab.SentencePiece(str(path)).size == 290
