"""The command that made the shipped vocabulary makes it again."""

import pytest
import sentencepiece

from moejax.cli import train_tokenizer
from moejax.core import errors
from moejax.data import vocab


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
    (['--files={}/a.txt'], '--files needs --output'),
    (['--files={}/a.txt', '--output={}/o'], 'Vocabulary size too high'),
    (['--files={}/b.txt', '--output={}/o'], 'no file there matches'),
    (['--size=290', '--files={}/a.txt', '--output={}/a.txt/o'], 'written'),
  ],
)
def test_bad_input_is_one_line(flags, words, tmp_path):
  (tmp_path / 'a.txt').write_text('the quick brown fox jumps over\n' * 9)
  with pytest.raises(errors.InputError, match=words) as caught:
    train_tokenizer.main([flag.format(tmp_path) for flag in flags])
  assert len(str(caught.value).splitlines()) == 1
