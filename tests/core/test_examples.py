"""Examples in docstrings: what is one, and which end a help."""

from moejax.core import examples

DOC = r"""Does it.

  moejax do --a=1
  MOE=2 moejax do --a='b  c' \
    --d=4
  echo 1 | moejax do it --e

A text, with a list
  of moejax words,

  moejax do later

  file   not a command of moejax

and an end.
"""
TOP = r"""  moejax do --a=1
  MOE=2 moejax do --a='b  c' \
    --d=4
  echo 1 | moejax do it --e"""


def test_the_first_block_is_taken_out_and_later_ones_stay():
  text, shown = examples.split(DOC)
  assert shown == TOP
  assert text.startswith('Does it.\n\nA text, with a list\n')
  assert '\n\n  moejax do later\n\n' in text
  assert text.endswith('and an end.')


def test_a_block_behind_text_and_a_block_without_a_command_stay():
  for doc in (
    'Does.\n\nText.\n\n  moejax do\n\nEnd.',
    'Does.\n\n  a  b\n\nEnd.',
  ):
    assert examples.split(doc) == (doc, '')
  assert examples.split('Does.') == ('Does.', '')


def test_commands_are_all_of_them_a_line_each():
  assert examples.commands(DOC) == [
    'moejax do --a=1',
    "MOE=2 moejax do --a='b c' --d=4",
    'echo 1 | moejax do it --e',
    'moejax do later',
  ]


def test_a_subcommand_has_the_commands_with_its_two_words():
  assert examples.of_subcommand(TOP, 'moejax do it') == (
    '  echo 1 | moejax do it --e'
  )
  assert examples.of_subcommand(TOP, 'moejax do i') == ''
  assert examples.of_subcommand(TOP, 'moejax redo it') == ''
  assert examples.of_subcommand('', 'moejax do it') == ''
