"""The routing of a text on a terminal: its tokens and their experts.

  token       nats  layer 1        layer 3
  ' the'      2.31  5:.61 2:.24    0:.50 3:.49
  ' cat'      4.02  1:.55 5:.31    3:.72 1:.11

Each cell has the experts of a token with their gate weights, that with the
largest weight first. On a terminal each expert has a colour, and above the
table the text itself is shown in the colours of its experts.
"""

import colorsys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from rich.cells import cell_len
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from moejax.analysis.trace import NOWHERE
from moejax.data.vocab import Vocab
from moejax.run import text_routing
from moejax.run.text_routing import Reading, Shown

TOKEN_WIDTH = 16  # most columns of a token's text
GAP = '  '
DROPPED, NEW = 'x', '*'
NONE = '-'
# The hue of the next expert is this far round the circle: neighbouring experts
# get colours that are easy to tell apart (the golden ratio).
HUE_STEP = 0.618034
# The colours of a terminal that has no others.
FEW = ('red', 'green', 'yellow', 'blue', 'magenta', 'cyan', 'white')
Colour = Callable[[int], Style]


def show(
  console: Console,
  vocab: Vocab,
  ids: Sequence[int],
  readings: Mapping[str, Reading],
  shown: Shown,
) -> None:
  """Prints the routing of one text.

  Args:
    console: where to. On a terminal the columns that do not fit beside each
      other are printed below; elsewhere lines have any length.
    vocab: decodes the ids.
    ids: the T tokens of the text.
    readings: what each model did with them, by its name; the others are
      compared with the first.
    shown: the layers and ranks.
  """
  pieces = text_routing.pieces_of(vocab, ids)
  paint = few_colours if console.color_system == 'standard' else colour
  if console.is_terminal and not console.no_color:
    console.print()
    for text in _coloured_texts(pieces, readings, shown, paint):
      _print(console, text, wrap=True)
  width = console.width if console.is_terminal else 10**6
  names = _names(vocab, ids, pieces)
  for line in table(names, readings, shown, width, paint):
    _print(console, line)
  for sentence in summary(readings, shown):
    _print(console, Text(sentence), wrap=True)


def _print(console: Console, text: Text, *, wrap: bool = False) -> None:
  if wrap and console.is_terminal:
    console.print(text)
  else:
    console.print(text, soft_wrap=True)


def _coloured_texts(
  pieces: Sequence[str],
  readings: Mapping[str, Reading],
  shown: Shown,
  paint: Colour,
) -> Iterator[Text]:
  """The text once for each layer, each token in the colour of one expert."""
  rank = shown.rank or 0
  for index in shown.layers:
    for name, reading in readings.items():
      trace = reading.trace
      heading = f'layer {trace.layers[index]}, coloured by choice {rank + 1}'
      if len(readings) > 1:
        heading += f' ({name})'
      yield Text(heading, style='bold')
      line = Text()
      for token, piece in enumerate(pieces):
        expert = _expert(trace.expert_TNK[token, index], rank)
        line.append(_visible(piece), style=paint(expert))
      line.append('\n')
      yield line


def _expert(expert_K: np.ndarray, rank: int) -> int:
  return int(expert_K[rank]) if rank < len(expert_K) else NOWHERE


def colour(expert: int) -> Style:
  """Black on the light colour of an expert; no colour without an expert."""
  if expert == NOWHERE:
    return Style()
  red, green, blue = colorsys.hls_to_rgb(expert * HUE_STEP % 1, 0.75, 0.7)
  background = Color.from_rgb(255 * red, 255 * green, 255 * blue)
  return Style(color='black', bgcolor=background)


def few_colours(expert: int) -> Style:
  """The same for terminals of few colours, which several experts share."""
  if expert == NOWHERE:
    return Style()
  return Style(color='black', bgcolor=FEW[expert % len(FEW)])


def _visible(piece: str) -> str:
  """Text without characters that would command the terminal."""
  return ''.join(
    c if c.isprintable() or c == '\n' else '\N{REPLACEMENT CHARACTER}'
    for c in piece.replace('\t', '    ').replace('\n', '↵\n')
  )


def _names(
  vocab: Vocab, ids: Sequence[int], pieces: Sequence[str]
) -> list[str]:
  """The tokens as cells of a table: quoted text, or the id without one."""
  names = []
  for token, piece in zip(ids, pieces, strict=True):
    own = piece or vocab.decode([token])
    names.append(repr(own) if own else f'<{token}>')
  return names


def table(
  names: Sequence[str],
  readings: Mapping[str, Reading],
  shown: Shown,
  width: int,
  paint: Colour,
) -> list[Text]:
  """The lines of the table, in as many blocks of layers as the width needs.

  Args:
    names: the T tokens.
    readings: as in `show`.
    shown: as in `show`.
    width: columns of the terminal.
    paint: the colour of an expert.
  """
  heading = ['token', ''] if len(readings) > 1 else ['token']
  first = _column(heading, map(_shortened, names), left=True)
  losses = [
    _column(
      ['nats', name] if len(readings) > 1 else ['nats'],
      ('' if np.isnan(x) else f'{x:.2f}' for x in reading.nats_T),
      left=False,
    )
    for name, reading in readings.items()
  ]
  room = width - _width([first])
  groups = [losses] + [
    _layer_columns(readings, index, shown.rank, room, paint)
    for index in shown.layers
  ]
  blocks: list[list[list[Text]]] = []
  for group in groups:
    if not blocks or _width([*blocks[-1], *group]) > width:
      blocks.append([first])
    blocks[-1] += group
  lines = []
  for block in blocks:
    lines += [_line(cells) for cells in zip(*block, strict=True)]
    lines.append(Text())
  if any('/' in column[0].plain for group in groups for column in group):
    lines.append(Text('(n/k): the first n of k experts'))
  return lines


def _layer_columns(
  readings: Mapping[str, Reading],
  index: int,
  rank: int | None,
  room: int,
  paint: Colour,
) -> list[list[Text]]:
  """A column for each model, with as many ranks as the room has columns for."""
  before = next(iter(readings.values())).trace
  k = before.k
  ranks = [rank] if rank is not None else [*range(k)]
  while True:
    columns = []
    for name, reading in readings.items():
      trace = reading.trace
      heading = [f'layer {trace.layers[index]}']
      if len(readings) > 1:
        heading.append(name)
      cells = [
        _cell(
          trace.expert_TNK[token, index],
          trace.weight_TNK[token, index],
          trace.dropped_TNK[token, index],
          before.expert_TNK[token, index],
          ranks,
          len(str(trace.num_experts - 1)),
          paint,
        )
        for token in range(len(trace.token_T))
      ]
      if len(ranks) < k and rank is None:
        heading[0] += f' ({len(ranks)}/{k})'
      columns.append(_column(heading, cells, left=True))
    if len(ranks) == 1 or _width(columns) + len(GAP) <= room:
      return columns
    ranks.pop()


def _cell(
  expert_K: np.ndarray,
  weight_K: np.ndarray,
  dropped_K: np.ndarray,
  before_K: np.ndarray,
  ranks: Sequence[int],
  digits: int,
  paint: Colour,
) -> Text:
  """The experts of one token in one layer, with their weights."""
  cell = Text()
  for rank in ranks:
    expert = _expert(expert_K, rank)
    if expert == NOWHERE:
      continue
    if cell:
      cell.append(' ')
    cell.append(' ' * (digits - len(str(expert))))
    cell.append(str(expert), style=paint(expert))
    cell.append(f':{weight(float(weight_K[rank]))}')
    if dropped_K[rank]:
      cell.append(DROPPED)
    if expert not in before_K:
      cell.append(NEW)
  return cell if cell else Text(NONE)


def weight(value: float) -> str:
  """A gate weight in few characters: 0.416 is '.42', 1.25 is '1.2'."""
  text = f'{value:.2f}'
  if abs(float(text)) >= 1:
    return f'{value:.1f}'
  return text.replace('0.', '.', 1)


def summary(readings: Mapping[str, Reading], shown: Shown) -> Iterator[str]:
  """Lines on the whole text, and on the marks that the table has."""
  means = [
    f'{name} {np.nanmean(reading.nats_T):.3f}'
    for name, reading in readings.items()
    if len(reading.nats_T) > 1
  ]
  if len(means) == 1:
    means = [means[0].rpartition(' ')[2]]
  if means:
    yield f'mean loss of a token, nats: {", ".join(means)}'
  first, *others = readings.items()
  for name, reading in others:
    shares = []
    for index in shown.layers:
      old_TK, new_TK = (
        np.sort(r.trace.expert_TNK[:, index], axis=-1)
        for r in (first[1], reading)
      )
      changed = _changed_share(old_TK, new_TK)
      shares.append(f'layer {reading.trace.layers[index]} {changed:.0%}')
    yield f'tokens with other experts under {name}: {", ".join(shares)}'
  if any(r.trace.dropped_TNK[:, shown.layers].any() for r in readings.values()):
    yield f'{DROPPED}: dropped, its expert had no room'
  if others:
    yield f'{NEW}: not among the experts of the token in the unchanged model'


def _changed_share(old_TK: np.ndarray, new_TK: np.ndarray) -> float:
  """Share of the tokens whose sets of experts differ; -1 stands for none."""
  sets = lambda x_TK: [set(x_K.tolist()) - {NOWHERE} for x_K in x_TK]
  pairs = zip(sets(old_TK), sets(new_TK), strict=True)
  return float(np.mean([old != new for old, new in pairs]))


def _shortened(name: str) -> str:
  if cell_len(name) <= TOKEN_WIDTH:
    return name
  text = Text(name)
  text.truncate(TOKEN_WIDTH, overflow='ellipsis')
  return text.plain


def _column(
  heading: Sequence[str], cells: Iterable[str | Text], *, left: bool
) -> list[Text]:
  """Cells of one width, the heading's lines first."""
  texts = [Text(line, style='bold') for line in heading]
  texts += [c if isinstance(c, Text) else Text(c) for c in cells]
  size = max(text.cell_len for text in texts)
  for text in texts:
    text.align('left' if left else 'right', size)
  return texts


def _width(columns: Sequence[Sequence[Text]]) -> int:
  """Columns of the terminal that these columns and their gaps take."""
  sizes = [column[0].cell_len for column in columns]
  return sum(sizes) + len(GAP) * (len(sizes) - 1)


def _line(cells: Sequence[Text]) -> Text:
  line = Text(GAP).join(cells)
  line.rstrip()
  return line
