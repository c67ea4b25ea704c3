"""The routing of a text on a terminal, from readings made by hand."""

import io
import re

import numpy as np
import pytest
from rich.console import Console
from rich.style import Style

from moejax.analysis.trace import Trace
from moejax.data.vocab import Bytes
from moejax.run import routing_view
from moejax.run.text_routing import Reading, Shown

# T=3 tokens 'a', '\n', 'é' (of two bytes, the first without text of its own)
# would be 4 ids; layers 1 and 3 have experts, k=2.
IDS = Bytes().encode('a\né')
EXPERT_TNK = [
  [[0, 2], [3, 1]],
  [[1, 0], [3, -1]],
  [[2, 1], [0, 1]],
  [[2, 0], [1, 0]],
]
WEIGHT_TNK = [
  [[0.6, 0.3], [0.5, 0.25]],
  [[0.7, 0.1], [1.0, 0.0]],
  [[0.8, 0.2], [1.25, 0.75]],
  [[0.5, 0.5], [0.4, 0.3]],
]
NATS = [np.nan, 1.0, 2.0, 3.0]


def reading(experts=EXPERT_TNK, nats=NATS, dropped=(), num_experts=4):
  expert_TNK = np.array(experts, np.int16)
  num = len(expert_TNK)
  dropped_TNK = np.zeros(expert_TNK.shape, bool)
  for place in dropped:
    dropped_TNK[place] = True
  trace = Trace(
    step=5,
    tokens_seen=0,
    layers=(1, 3),
    num_experts=num_experts,
    domains=('prompt',),
    expert_TNK=expert_TNK,
    weight_TNK=np.array(WEIGHT_TNK, np.float32),
    dropped_TNK=dropped_TNK,
    entropy_TN=np.zeros((num, 2), np.float32),
    token_T=np.array(IDS, np.int32),
    position_T=np.arange(num, dtype=np.int32),
    document_T=np.zeros(num, np.int32),
    domain_T=np.zeros(num, np.int16),
  )
  return Reading(trace, np.array(nats, np.float32))


def printed(readings, shown, width=None, colours='truecolor'):
  """What is printed; to a terminal of a width, or to a file."""
  text = io.StringIO()
  terminal = width is not None
  console = Console(
    file=text,
    width=width,
    force_terminal=terminal,
    color_system=colours if terminal else None,
    highlight=False,
  )
  routing_view.show(console, Bytes(), IDS, readings, shown)
  return text.getvalue()


def test_a_row_for_each_token_with_its_experts_and_weights():
  assert printed(
    {'unchanged': reading()}, Shown((0, 1), None)
  ).splitlines() == [
    'token  nats  layer 1      layer 3',
    "'a'          0:.60 2:.30  3:.50 1:.25",
    r"'\n'   1.00  1:.70 0:.10  3:1.0",
    '<198>  2.00  2:.80 1:.20  0:1.2 1:.75',
    "'é'    3.00  2:.50 0:.50  1:.40 0:.30",
    '',
    'mean loss of a token, nats: 2.000',
  ]


def test_numbers_of_many_experts_stand_below_each_other():
  lines = []
  for own in (reading(), reading(num_experts=12)):
    text = printed({'unchanged': own}, Shown((0,), None))
    lines.append(text.splitlines()[1].removeprefix("'a'").strip())
  assert lines == ['0:.60 2:.30', '0:.60  2:.30']


def test_one_layer_and_one_rank():
  lines = printed({'unchanged': reading()}, Shown((1,), 1)).splitlines()
  assert lines[:5] == [
    'token  nats  layer 3',
    "'a'          1:.25",
    r"'\n'   1.00  -",
    '<198>  2.00  1:.75',
    "'é'    3.00  0:.30",
  ]


def test_a_changed_model_stands_beside_with_its_differences_marked():
  # In layer 1 the first token has other experts, and the last two the same
  # ones in another order: 1 of 4. In layer 3 all are the same.
  other = reading(
    [
      [[1, 2], [3, 1]],
      [[0, 1], [3, -1]],
      [[2, 1], [0, 1]],
      [[0, 2], [1, 0]],
    ],
    nats=[np.nan, 2.0, 3.0, 4.0],
    dropped=[(2, 0, 1)],
  )
  readings = {'unchanged': reading(), 'mask_top=1/4': other}
  assert printed(readings, Shown((0,), None)).splitlines() == [
    'token       nats          nats  layer 1      layer 1',
    '       unchanged  mask_top=1/4  unchanged    mask_top=1/4',
    "'a'                             0:.60 2:.30  1:.60* 2:.30",
    r"'\n'        1.00          2.00  1:.70 0:.10  0:.70 1:.10",
    '<198>       2.00          3.00  2:.80 1:.20  2:.80 1:.20x',
    "'é'         3.00          4.00  2:.50 0:.50  0:.50 2:.50",
    '',
    'mean loss of a token, nats: unchanged 2.000, mask_top=1/4 3.000',
    'tokens with other experts under mask_top=1/4: layer 1 25%',
    'x: dropped, its expert had no room',
    '*: not among the experts of the token in the unchanged model',
  ]


@pytest.mark.parametrize('width', [30, 40, 80])
def test_no_line_is_wider_than_the_terminal(width):
  text = printed({'unchanged': reading()}, Shown((0, 1), None), width)
  lines = re.sub(r'\x1b\[[\d;]*m', '', text).splitlines()
  assert max(map(len, lines)) <= width
  # What does not fit beside is below, with the tokens again.
  blocks = [line for line in lines if line.startswith('token ')]
  assert len(blocks) == {30: 2, 40: 1, 80: 1}[width]
  assert ''.join(blocks).split().count('layer') == 2


def no_paint(_):
  return Style()


def test_ranks_are_left_out_where_the_terminal_has_no_room():
  names, one = ['a'] * 4, Shown((0,), None)
  # 'token', a gap of 2 and '0:.60 2:.30' are 18 columns.
  for width, cell, heading in (
    (18, '0:.60 2:.30', 'layer 1'),
    (17, '0:.60', 'layer 1 (1/2)'),
  ):
    table = routing_view.table(
      names, {'unchanged': reading()}, one, width, no_paint
    )
    lines = [line.plain for line in table]
    top = lines.index(f'token  {heading}')
    assert lines[top + 1] == f'a      {cell}'
    assert ('(n/k)' in lines[-1]) == (width == 17)


def test_on_a_terminal_the_text_has_the_colours_of_its_experts():
  text = printed({'unchanged': reading()}, Shown((0,), None), 80)
  assert 'layer 1, coloured by choice 1' in text
  first = text.partition('token')[0]
  colours = {}
  for expert in (0, 1, 2):
    colour = routing_view.colour(expert).bgcolor.triplet
    colours[expert] = f'48;2;{colour.red};{colour.green};{colour.blue}m'
    assert colours[expert] in first
  assert len(set(colours.values())) == 3
  assert f'{colours[0]}a' in first
  assert f'{colours[1]}↵' in first
  assert f'{colours[2]}é' in first


def test_a_terminal_of_few_colours_tells_neighbours_apart():
  names = [routing_view.few_colours(e).bgcolor.name for e in range(7)]
  assert len(set(names)) == 7
  text = printed({'unchanged': reading()}, Shown((0,), None), 80, 'standard')
  # Red, green and yellow for the experts 0, 1 and 2.
  for code in ('41ma', '42m↵', '43mé'):
    assert f'30;{code}' in text


def test_a_token_cannot_command_the_terminal():
  names = routing_view._names(Bytes(), [30], ['\x1b'])
  assert names == [r"'\x1b'"]
  assert (
    routing_view._visible('a\x1b[2J\tb') == 'a\N{REPLACEMENT CHARACTER}[2J    b'
  )


@pytest.mark.parametrize(
  ('value', 'text'),
  [
    (0.416, '.42'),
    (0.0, '.00'),
    (1.0, '1.0'),
    (0.996, '1.0'),
    (1.25, '1.2'),
    (-0.25, '-.25'),
    (12.5, '12.5'),
  ],
)
def test_weights_are_short(value, text):
  assert routing_view.weight(value) == text
