import pytest

from moejax.core import lines


@pytest.mark.parametrize(
  ('line', 'width', 'want'),
  [
    ('  one two three', 12, ['  one two', '  three']),
    ('one  two', 80, ['one  two']),
    ('well-known words', 6, ['well-known', 'words']),
    ('', 10, ['']),
    ('      deep', 4, ['deep']),
  ],
)
def test_wrapped(line, width, want):
  assert lines.wrapped(line, width) == want


def test_a_command_breaks_between_words_of_the_shell():
  assert lines.command("python -m x --a=1 --b='c d'", 30) == [
    '  python -m x --a=1 \\',
    "    --b='c d'",
  ]
  assert lines.command('x y', 80) == ['  x y']
