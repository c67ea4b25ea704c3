"""What is written down of the commands is what their parsers say.

After a change of flags, write it anew with

  UPDATE_GOLDEN=1 python -m pytest tests/shell/test_reference.py
"""

import argparse
import ast
import importlib
import json
import os
import pathlib
import re
import shlex

import pytest

from moejax.config import listing
from moejax.core import command, examples, shipped
from moejax.shell import dispatch, reference

ROOT = pathlib.Path(__file__).parents[2]
COMMANDS = reference.modules()
# Its flags are those of lm_eval.
FOREIGN = {'lm_eval'}


class ParsedError(Exception):
  """Ends a command when it has made its parser."""


@pytest.fixture
def parser_of(monkeypatch):
  """The parser that a command makes, by the command's name."""

  def stop(flags, argv):
    raise ParsedError(flags)

  def parser_of(name):
    with monkeypatch.context() as patch:
      patch.setattr(command, 'parse', stop)
      patch.setattr(command, 'started_as', lambda: f'moejax {name}')
      with pytest.raises(ParsedError) as parsed:
        importlib.import_module(COMMANDS[name]).main(())
    return parsed.value.args[0]

  return parser_of


def test_every_command_is_in_the_table():
  files = {
    f'moejax.cli.{path.stem}' for path in (ROOT / 'moejax/cli').glob('[!_]*.py')
  }
  assert {*COMMANDS.values()} == {*files, 'moejax.main'}


def test_the_flags_are_those_of_the_commands(parser_of):
  text = ''
  for name in COMMANDS:
    if name not in FOREIGN:
      for row in reference.rows(name, reference.of_parser(parser_of(name))):
        text += json.dumps(row, ensure_ascii=False) + '\n'
  if 'UPDATE_GOLDEN' in os.environ:
    reference.FLAGS.write_text(text, encoding='utf-8')
  assert reference.FLAGS.read_text(encoding='utf-8') == text


def _helps(parser):
  """The help of a parser and of those of its subcommands."""
  texts = [parser.format_help()]
  for action in parser._actions:
    if isinstance(action, argparse._SubParsersAction):
      texts += [text for one in action.choices.values() for text in _helps(one)]
  return texts


@pytest.mark.parametrize('name', sorted({*COMMANDS} - FOREIGN))
def test_help_without_the_command_is_its_own_help(name, parser_of):
  reference.references.cache_clear()
  assert _helps(reference.parser(name)) == _helps(parser_of(name))


@pytest.mark.parametrize('name', COMMANDS)
def test_every_help_ends_in_examples_of_the_command(name):
  for text in _helps(reference.parser(name)):
    program = ' '.join(re.match(r'usage: ((?:[a-z_]+ ?)+)', text)[1].split())
    _, found, last = text.rpartition('\nexamples:\n')
    assert found, f'{program} --help has no examples'
    # Nothing else stands behind them.
    commands = examples.commands(f'x\n\n{last.rstrip()}\n\nx')
    assert ' '.join(commands) == ' '.join(last.replace('\\\n', ' ').split())
    assert any(f'{program} ' in f'{one} ' for one in commands), program


# A command in a line, behind what may stand before it: `node0$ A=1 moejax ...`.
COMMAND = re.compile(
  rf'^(?:\s|\S+\$ |[A-Z_]+=\S+ |\S*bin/|.*\| )*'
  rf'(moejax (?:{"|".join(COMMANDS)})\b.*)'
)


def _commands(lines):
  """The commands of lines, without what ends them, with a number for `$i`."""
  found = (COMMAND.match(line) for line in lines)
  words = [match[1].rstrip('.& ') for match in found if match]
  return [' '.join(re.sub(r'\$\w+', '1', one).split()) for one in words]


def _of_page(path):
  page = path.read_text()
  blocks = re.findall(r'^```\n(.*?)^```', page, re.M | re.S)
  blocks += re.findall(r'^(?: {4}.*\n)+', page, re.M)
  return _commands(''.join(blocks).replace('\\\n', ' ').splitlines())


def _of_docstring(text):
  return _commands(examples.commands(text))


EXAMPLES = sorted({
  one
  for text in [
    *map(reference.docstring, COMMANDS.values()),
    f'All.\n\n{dispatch.EXAMPLES}\n\nEnd.',
  ]
  for one in _of_docstring(text)
})


def _doc(path):
  return ast.get_docstring(ast.parse(path.read_text())) or ''


PAGES = [
  ROOT / 'README.md',
  *sorted((ROOT / 'docs').glob('*.md')),
  *sorted((ROOT / 'docs' / 'howto').glob('*.md')),
]
CONFIGS = sorted((ROOT / 'configs').rglob('*.py'))
WRITTEN = sorted({
  one
  for one in [
    *(one for path in PAGES for one in _of_page(path)),
    *(one for path in CONFIGS for one in _of_docstring(_doc(path))),
  ]
})


@pytest.fixture(scope='module')
def keys():
  return {key.path for key in [*listing.keys()]}


# Files that a reader has, not we.
OWN = {'FILE', 'compare.py', 'my.py', 'my_sweep.py', 'race.py'}


@pytest.mark.parametrize('example', sorted({*EXAMPLES, *WRITTEN}))
def test_an_example_has_the_flags_configs_and_keys_that_are_there(
  example, parser_of, keys
):
  program, name, *words = shlex.split(example)
  assert program == 'moejax'
  assert name in COMMANDS
  if name in FOREIGN or words == ['--help']:
    return
  args, overrides = command.parse(parser_of(name), words)
  for kind in ('config', 'sweep'):
    spec = getattr(args, kind, None)
    if isinstance(spec, str):
      path = spec.partition(':')[0]
      if path in OWN:
        continue
      assert shipped.find(path, kind) != path, f'{kind} {path} is not shipped'
  # Else the folder of the config may have a run, which is refused.
  assert name != 'train' or args.workdir or not overrides, 'no --workdir'
  for key, _ in overrides:
    key = re.sub(r'(?<=^data\.sources\.)\w+', 'NAME', key)
    assert key.removesuffix('.name') in keys


def test_examples_are_many():
  assert len(EXAMPLES) > 60
  assert len(WRITTEN) > 100
