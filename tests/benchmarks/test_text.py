"""The benchmark of long documents, its sides in this process and small."""

import pytest

from benchmarks import text as text_lib
from moejax.core import command, exits
from moejax.data import long_text


@pytest.fixture(autouse=True)
def _small(monkeypatch):
  for name, value in {'LONG': 1000, 'PIECE': 400, 'WINDOW': 128}.items():
    monkeypatch.setattr(long_text, name, value)

  def write(path, megabytes):
    path.write_text('the cat sat on the mat\n' * 300 * megabytes)

  def side(*wanted):
    # By the flags that its process would be given.
    flags = text_lib._side_flags(*wanted)
    args, _ = command.parse(text_lib._flags(), flags)
    return text_lib._measured(args)

  monkeypatch.setattr(text_lib, '_write', write)
  monkeypatch.setattr(text_lib, '_side', side)


def _call(capsys, *flags):
  code = exits.call(text_lib.main, flags)
  return code, *capsys.readouterr()


def test_the_ids_and_two_ratios_are_said(capsys):
  code, out, err = _call(capsys, '--mb=2', '--whole_mb=1', '--rounds=2')
  assert (code, err) == (exits.DONE, '')
  first, second = out.splitlines()
  assert '2 MB as one document into rows of 1024' in first
  assert ' MB of memory' in first
  assert '1 MB in pieces / as a whole: time ' in second
  assert second.endswith('ids the same')


def test_a_wrong_tokenizer_is_known_before_anything_is_measured(
  capsys, monkeypatch
):
  monkeypatch.setattr(text_lib, '_side', None)
  code, out, err = _call(capsys, '--mb=1', '--tokenizer=/no/tokenizer.json')
  assert (code, out) == (exits.BAD_INPUT, '')
  assert err.startswith('error: --tokenizer=/no/tokenizer.json: ')
  assert len(err.splitlines()) == 1


def test_the_ratios_are_of_pieces_over_the_whole(capsys, monkeypatch):
  # By round: seconds, megabytes.
  figures = {
    'rows': [(4.0, 100)],
    'pieces': [(3.0, 50), (2.0, 60), (9.0, 40)],
    'whole': [(2.0, 200), (4.0, 80), (1.0, 100)],
  }

  def side(eos_token, tokenizer, side, file):
    seconds, peak_mb = figures[side].pop(0)
    return {
      'seconds': seconds,
      'peak_mb': peak_mb,
      'tokens': 9,
      'sha256': 'the same',
    }

  monkeypatch.setattr(text_lib, '_side', side)
  code, out, _ = _call(capsys, '--mb=2', '--whole_mb=1', '--rounds=3')
  assert code == exits.DONE
  first, second = out.splitlines()
  assert first.endswith(': 4 s, 0.5 MB/s, 9 tokens, 100 MB of memory')
  # The rounds' ratios are 1.5, 0.5 and 9 of time; 0.25, 0.75 and 0.4 of memory.
  assert ': time 1.50, memory 0.40 (50 and 200 MB), ids the same' in second


def test_other_ids_end_it(capsys, monkeypatch):
  cut = lambda text, near, vocab: near - 10  # within the word "the"
  monkeypatch.setattr(long_text, '_find_cut', cut)
  monkeypatch.setattr(long_text, 'CONTEXT', 0)
  code, out, err = _call(capsys, '--mb=1', '--whole_mb=1', '--rounds=1')
  assert code == exits.STOPPED
  assert out.splitlines()[-1].endswith('ids DIFFERENT')
  assert 'pieces have other ids than the whole' in err


@pytest.mark.parametrize(
  ('flag', 'words'),
  [
    ('--mb=0', '--mb=0 must be from 1'),
    ('--rounds=0', '--rounds=0 must be 1 or more'),
    ('--config.seed=1', 'takes no --config.*'),
  ],
)
def test_bad_flags_get_one_line(flag, words, capsys):
  code, out, err = _call(capsys, flag)
  assert (code, out) == (exits.BAD_INPUT, '')
  assert words in err
