"""docs/data_flow.md: at most 15 files, and what it says of them is there."""

import ast
import math
import pathlib
import re

import pytest

from moejax import config

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'data_flow.md').read_text()
FIGURE = (ROOT / 'docs' / 'figures' / 'data_flow.svg').read_text()
MAX_FILES = 15
# The text below a heading such as "### 3. `moejax/data/loader.py`", by file.
SECTION = re.compile(r'^### (\d+)\. `([\w/.]+)`\n(.*?)(?=^##|\Z)', re.M | re.S)
STOPS = [(int(n), file, text) for n, file, text in SECTION.findall(PAGE)]
FUNCTION = re.compile(r'`([\w.]+)\(\)`')
SHAPE = re.compile(r'`\w+_([A-Z0-9]+)`\s\[([\d,\s]+)\]')


def functions(file):
  """Names such as 'make' and 'Loader.batch' that a file defines."""
  names = set()
  for node in ast.parse((ROOT / file).read_text()).body:
    if isinstance(node, ast.FunctionDef):
      names.add(node.name)
    elif isinstance(node, ast.ClassDef):
      names |= {
        f'{node.name}.{inner.name}'
        for inner in node.body
        if isinstance(inner, ast.FunctionDef)
      }
  return names


def sizes():
  """The sizes of each letter in the table on top; K has two meanings."""
  row = re.compile(r'^\| ([A-Z]) \| .+ \| ([\d; ]+) \|$', re.M)
  return {
    letter: {int(n) for n in numbers.split(';')}
    for letter, numbers in row.findall(PAGE)
  }


def wrong_shapes(text):
  """Shapes in a text whose numbers are not those of their letters."""
  wrong = []
  for suffix, numbers in SHAPE.findall(text):
    shape = [int(n) for n in numbers.split(',')]
    known = [{int(c)} if c.isdigit() else sizes()[c] for c in suffix]
    if len(shape) != len(known) or any(
      n not in allowed for n, allowed in zip(shape, known, strict=True)
    ):
      wrong.append((suffix, shape))
  return wrong


def test_the_walk_is_short_and_numbered():
  assert [n for n, _, _ in STOPS] == list(range(1, len(STOPS) + 1))
  files = set(re.findall(r'moejax/[\w/]+\.py', PAGE))
  assert files == {file for _, file, _ in STOPS}
  assert len(STOPS) == len(files) <= MAX_FILES


@pytest.mark.parametrize('stop', STOPS, ids=lambda stop: stop[1])
def test_every_function_of_a_stop_is_in_its_file(stop):
  _, file, text = stop
  names = FUNCTION.findall(text)
  assert names, 'a stop names the functions to read'
  assert set(names) <= functions(file)


def test_the_sizes_are_those_of_the_config():
  run = config.load(f'{ROOT}/configs/tiny.py')
  model, moe = run.model, run.model.moe
  B, L = run.train.batch_size, run.data.sequence_length
  assert sizes() == {
    'B': {B},
    'L': {L},
    'T': {B * L},
    'D': {model.width},
    'H': {model.num_heads},
    'K': {model.head_dim, moe.router.k},
    'V': {model.vocab_size},
    'E': {moe.num_experts},
    'F': {moe.expert_width},
    'A': {B * L * moe.router.k},
    'N': {model.num_moe},
  }


def test_every_shape_has_the_sizes_of_its_letters():
  assert len(SHAPE.findall(PAGE)) > 15
  assert wrong_shapes(PAGE) == []
  assert wrong_shapes('`x_TD` [2048, 96]') == [('TD', [2048, 96])]


def test_the_figure_names_the_stops_by_their_numbers():
  names = re.findall(r'(?:>|\(|, )(\d+) (\w+)', FIGURE)
  stops = {(int(n), name) for n, name in names}
  stops = {stop for stop in stops if stop[1] not in {'experts', 'layers', 'x'}}
  # The figure leaves out sharded.py, which on one device calls layer.py once.
  assert stops == {
    (n, stem)
    for n, file, _ in STOPS
    if (stem := pathlib.PurePath(file).stem) != 'sharded'
  }
  # Sizes of arrays, such as 2048x192.
  known = set().union(*sizes().values())
  for shape in re.findall(r'>(\d+(?: ?x ?\d+)+)<', FIGURE):
    assert {int(n) for n in re.split(' ?x ?', shape)} <= known, shape
    assert math.prod(int(n) for n in re.split(' ?x ?', shape)) > 1
