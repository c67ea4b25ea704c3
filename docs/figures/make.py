"""Draws figures of docs/moe.md and docs/theory.md from small worked examples.

  python docs/figures/make.py

The same numbers give the same files, byte for byte, with the same matplotlib.
Text stays text in them, so they are small.
"""

import pathlib

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FOLDER = pathlib.Path(__file__).parent
STYLE = {
  'svg.fonttype': 'none',
  'svg.hashsalt': 'moejax',
  'font.family': 'sans-serif',
  'font.size': 9,
}
STRONG, WEAK, GREY, WHITE = '#9ecae1', '#deebf7', '#e8e8e8', '#ffffff'
# Of device 0 and 1.
DEVICE = ('#9ecae1', '#fdd0a2')

# [first token, expert]: what routing() draws; the third token is padding.
PROB_TE = np.array([
  [0.1, 0.1, 0.6, 0.2],
  [0.5, 0.1, 0.3, 0.1],
  [0.25, 0.25, 0.25, 0.25],
])
VALID_T = np.array([True, True, False])
K = 2

# Of two shards with three tokens each: what balance() draws.
LOGITS_STE = np.array([
  [[2.0, 1.0, 0.0, -1.0], [0.0, 1.0, 2.0, 1.5], [1.0, 1.5, 0.5, 0.0]],
  [[0.0, 0.0, 1.0, 2.0], [0.5, 0.0, 1.5, 1.0], [0.0, -1.0, 2.0, 2.5]],
])
RATE = 0.001

# (slope of the gate, slope of the expert) of atoms: what voronoi() draws.
TRUE_AD = np.array([[1.5, 6.5], [6.5, 2.5]])
FITTED_AD = np.array([[0.6, 7.6], [2.2, 5.5], [6.9, 2.2]])


def page(width: float, height: float) -> tuple[Figure, Axes]:
  """An empty figure in units of a tenth of an inch."""
  figure = plt.figure(figsize=(width / 10, height / 10))
  ax = figure.add_axes((0, 0, 1, 1))
  ax.set_xlim(0, width)
  ax.set_ylim(0, height)
  ax.axis('off')
  return figure, ax


def box(ax: Axes, place: tuple[float, ...], text: str, color: str = WHITE):
  """A box with text in it; its place is left, bottom, width and height."""
  x, y, width, height = place
  ax.add_patch(
    plt.Rectangle((x, y), width, height, facecolor=color, edgecolor='black')
  )
  ax.text(x + width / 2, y + height / 2, text, ha='center', va='center')


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]):
  """An arrow."""
  ax.annotate('', end, start, arrowprops={'arrowstyle': '->', 'linewidth': 1})


def numbers(
  ax: Axes, corner: tuple[float, float], name: str, x_E: np.ndarray, form: str
):
  """A named line of numbers; the corner is the lower left of the first."""
  x, y = corner
  ax.text(x - 1, y + 1.25, name, ha='right', va='center')
  for i, value in enumerate(x_E):
    box(ax, (x + 5 * i, y, 5, 2.5), format(value, form))


def routing() -> Figure:
  """Probabilities, the list of assignments, rows by expert, outputs."""
  num_tokens, num_experts = PROB_TE.shape
  expert_TK = np.argsort(-PROB_TE, axis=1, kind='stable')[:, :K]
  weight_TK = np.take_along_axis(PROB_TE, expert_TK, axis=1)
  expert_TK = np.where(VALID_T[:, None], expert_TK, num_experts)
  weight_TK = np.where(VALID_T[:, None], weight_TK, 0.0)
  token_A = np.tile(np.arange(num_tokens), K)
  expert_A, weight_A = expert_TK.T.reshape(-1), weight_TK.T.reshape(-1)

  figure, ax = page(100, 34)
  _probabilities(ax, expert_TK)
  arrow(ax, (28, 17), (31.5, 17))
  _list(ax, token_A, expert_A, weight_A)
  arrow(ax, (55.5, 17), (59, 17))
  _rows(ax, token_A, expert_A)
  arrow(ax, (79, 17), (82, 17))

  ax.text(83, 29, 'combine: out_TD', weight='bold')
  for t in range(num_tokens):
    parts = [
      f'{weight_A[a]:g} f{expert_A[a]}(x{t})'
      for a in np.flatnonzero(token_A == t)
      if expert_A[a] < num_experts
    ]
    lines = [f'out{t} = {parts[0] if parts else 0}', *parts[1:]]
    ax.text(83, 24 - 5.5 * t, '\n       + '.join(lines), va='center')
  return figure


def _probabilities(ax, expert_TK):
  """What the router makes of the logits."""
  num_tokens, num_experts = PROB_TE.shape
  ax.text(7, 29, 'router: prob_TE', weight='bold')
  for e in range(num_experts):
    ax.text(9.5 + 5 * e, 25.5, f'f{e}', ha='center')
  for t in range(num_tokens):
    name = f'x{t}' if VALID_T[t] else 'padding'
    ax.text(6.5, 23 - 4 * t, name, ha='right', va='center')
    for e in range(num_experts):
      color = WHITE if VALID_T[t] else GREY
      if e == expert_TK[t, 0]:
        color = STRONG
      elif e in expert_TK[t]:
        color = WEAK
      text = f'{PROB_TE[t, e]:g}' if VALID_T[t] else ''
      box(ax, (7 + 5 * e, 21 - 4 * t, 5, 4), text, color)
  ax.text(7, 9, f'K = {K}: dark is the first\nchoice, light the second')


def _list(ax, token_A, expert_A, weight_A):
  """The assignments in order of priority."""
  num_tokens, num_experts = PROB_TE.shape
  ax.text(32.5, 29, 'Routing: a list of assignments', weight='bold')
  heads = ('token_A', 'expert_A', 'weight_A')
  for i, head in enumerate(heads):
    ax.text(35.5 + 6.5 * i, 25.5, head, ha='center')
  for a, expert in enumerate(expert_A):
    color = STRONG if a < num_tokens else WEAK
    if expert == num_experts:
      color = GREY
    for i, value in enumerate((token_A[a], expert, weight_A[a])):
      place = (32.5 + 6.5 * i, 22 - 3 * a, 6.5, 3)
      box(ax, place, f'{value:g}', color)
  ax.text(
    32.5,
    2.5,
    f'earlier ones win where room is short;\n'
    f'expert {num_experts} means nowhere',
  )


def _rows(ax, token_A, expert_A):
  """Rows grouped by expert."""
  num_tokens, num_experts = PROB_TE.shape
  ax.text(60, 29, 'dispatcher: x_RD', weight='bold')
  y = 25
  for e in range(num_experts):
    mine = np.flatnonzero(expert_A == e)
    height = 3 * max(1, len(mine))
    middle = y - height / 2
    ax.text(65.5, middle, f'f{e}', ha='right', va='center')
    for i, a in enumerate(mine):
      color = STRONG if a < num_tokens else WEAK
      box(ax, (66.5, y - 3 * (i + 1), 5, 3), f'x{token_A[a]}', color)
    ax.text(72.5, middle, f'size {len(mine)}', va='center')
    y -= height + 1.2


def balance() -> Figure:
  """Sums of shards, of the global batch, the loss and a bias of them."""
  prob_STE = np.exp(LOGITS_STE)
  prob_STE /= prob_STE.sum(axis=2, keepdims=True)
  shards, num_tokens, num_experts = prob_STE.shape
  order_STE = np.argsort(-LOGITS_STE, axis=2, kind='stable')
  hit_STKE = order_STE[..., :K, None] == np.arange(num_experts)
  count_SE, prob_SE = hit_STKE.sum(axis=(1, 2)), prob_STE.sum(axis=1)

  def loss(count_E, prob_E, tokens):
    return num_experts * count_E @ prob_E / (K * tokens * tokens)

  figure, ax = page(100, 37)
  alone = [loss(count_SE[s], prob_SE[s], num_tokens) for s in range(shards)]
  for s, of_shard in enumerate(alone):
    y = 21 - 14 * s
    title = f'shard or micro-batch {s}: observe'
    ax.text(1, y + 9.5, title, weight='bold')
    numbers(ax, (8, y + 5), 'count_E', count_SE[s], 'd')
    numbers(ax, (8, y + 1.5), 'prob_E', prob_SE[s], '.2f')
    ax.text(
      8, y - 1.5, f'tokens = {num_tokens}; alone it would be {of_shard:.3f}'
    )
    arrow(ax, (29, y + 4), (36, 18.5))

  total_E = count_SE.sum(axis=0)
  tokens = shards * num_tokens
  ax.text(37, 24, 'global batch: added up', weight='bold')
  numbers(ax, (44, 19), 'count_E', total_E, 'd')
  numbers(ax, (44, 15.5), 'prob_E', prob_SE.sum(axis=0), '.2f')
  ax.text(44, 12.5, f'tokens = {tokens}')
  arrow(ax, (65, 20), (69, 26))
  arrow(ax, (65, 16), (69, 12))

  whole = loss(total_E, prob_SE.sum(axis=0), tokens)
  ax.text(70, 31, 'loss: expert_level, alpha = 1', weight='bold')
  ax.text(70, 27.5, f'E / (K T T) sum(count_E prob_E) = {whole:.3f}')
  ax.text(
    70,
    22.5,
    f'Not the mean of the two alone, {np.mean(alone):.3f}.\n'
    'Its derivative by the sums goes\nback to every shard.',
    va='center',
  )
  step_E = RATE * np.sign(total_E.mean() - total_E)
  ax.text(70, 13, 'memory: loss_free', weight='bold')
  ax.text(70, 10, f'bias_E += {RATE:g} sign(mean - count_E)')
  for e, step in enumerate(step_E):
    box(ax, (70 + 6.5 * e, 6.5, 6.5, 2.5), f'{step:+g}')
  ax.text(
    70,
    3,
    'after the optimiser step,\nfor choosing in the next one',
    va='center',
  )
  return figure


# Token, its device, its expert; experts 0 and 1 are on device 0.
SENT = (('u', 0, 3), ('v', 0, 0), ('w', 1, 1), ('z', 1, 0))
OWN = 2


def dispatch() -> Figure:
  """What each kind of expert parallelism moves between two devices."""
  figure, ax = page(100, 62)
  ragged = [
    [
      [t for t, d, e in SENT if (d, e // OWN) == (source, target)]
      for target in range(2)
    ]
    for source in range(2)
  ]
  buffers = [[part + ['-'] * (2 - len(part)) for part in d] for d in ragged]
  all_rows = [[t for t, d, _ in SENT if d == source] for source in range(2)]
  panel(
    ax,
    (1, 33),
    'all_to_all: buffers of one size',
    buffers,
    'outputs go back the same way',
  )
  panel(
    ax,
    (52, 33),
    'ragged_all_to_all: rows that exist',
    ragged,
    'outputs go back the same way',
  )
  panel(
    ax,
    (1, 2),
    'all_gather: all tokens to all devices',
    [[rows, rows] for rows in all_rows],
    'each token gets the sum of what both devices made',
  )
  experts = [[f'f{OWN * d + i}' for i in range(OWN)] for d in range(2)]
  panel(
    ax,
    (52, 2),
    'gather_experts: all experts to all devices',
    [[mine, mine] for mine in experts],
    'no token travels; gradients of the weights go back',
  )
  return figure


def panel(
  ax: Axes,
  corner: tuple[float, float],
  title: str,
  parts: list[list[list[str]]],
  note: str,
):
  """One kind of expert parallelism; `parts` is [from][to]: what travels."""
  x, y = corner
  ax.text(x, y + 26, title, weight='bold')
  tops = [y + 15, y + 4]
  for d in range(2):
    has = ', '.join(f'{t} for f{e}' for t, at, e in SENT if at == d)
    ax.text(x, tops[d] + 8, f'device {d}: f{OWN * d} f{OWN * d + 1}; {has}')
    at = x + 1
    for target in range(2):
      ax.text(at, tops[d] + 5.3, f'to {target}')
      for thing in parts[d][target]:
        box(ax, (at, tops[d] + 2, 3, 2.8), thing, DEVICE[d])
        at += 3
      at += 6
    got = [(t, s) for s in range(2) for t in parts[s][d]]
    ax.text(x + 34, tops[d] + 5.3, f'device {d} has')
    for i, (thing, source) in enumerate(got):
      place = (x + 34 + 3 * i, tops[d] + 2, 3, 2.8)
      box(ax, place, thing, DEVICE[source])
    for other in range(2):
      arrow(ax, (x + 25, tops[d] + 3.4), (x + 33, tops[other] + 3.4))
  ax.text(x, y + 1.5, note)


def voronoi() -> Figure:
  """Two true atoms, three fitted ones, and the cells that they fall into."""
  figure, ax = page(80, 36)
  axes = figure.add_axes((0.07, 0.13, 0.38, 0.8))
  axes.set_xlim(0, 8)
  axes.set_ylim(0, 9)
  axes.set_xticks([])
  axes.set_yticks([])
  axes.set_xlabel('slope of the gate')
  axes.set_ylabel('slope of the expert')
  apart_FAD = FITTED_AD[:, None] - TRUE_AD
  cell_F = np.argmin(np.linalg.norm(apart_FAD, axis=2), axis=1)
  # The border of the cells: points that are equally far from both true atoms.
  middle_D, across_D = TRUE_AD.mean(axis=0), TRUE_AD[1] - TRUE_AD[0]
  along_D = np.array([-across_D[1], across_D[0]])
  ends = np.stack([middle_D - 2 * along_D, middle_D + 2 * along_D]).T
  axes.plot(*ends, '--', color='grey', linewidth=1)
  for place_D, cell in zip(FITTED_AD, cell_F, strict=True):
    axes.plot(
      *np.stack([place_D, TRUE_AD[cell]]).T, color='grey', linewidth=0.8
    )
    axes.plot(*place_D, 'o', color='#3182bd', markersize=6)
  axes.plot(*TRUE_AD.T, '*', color='#e6550d', markersize=13)
  for i, place_D in enumerate(TRUE_AD):
    axes.annotate(f'true {i + 1}', place_D + np.array([-0.4, -1.0]))
  lines = [
    ('star', 'a true atom: its gate, its expert, its variance'),
    ('dot', 'a fitted atom, joined to the nearest true one'),
    ('dashed', 'the border between the two cells'),
    ('', ''),
    ('cell 1', 'two atoms: over-fitted, each about n^-1/4 away,'),
    ('', 'on opposite sides, so that their mean is nearer'),
    ('cell 2', 'one atom: exactly fitted, n^-1/2 away'),
  ]
  for i, (name, text) in enumerate(lines):
    ax.text(39, 30 - 3.4 * i, name, weight='bold')
    ax.text(46, 30 - 3.4 * i, text)
  return figure


def main() -> None:
  """Writes the four files."""
  with mpl.rc_context(STYLE):
    for draw in (routing, balance, dispatch, voronoi):
      figure = draw()
      path = FOLDER / f'{draw.__name__}.svg'
      figure.savefig(path, metadata={'Date': None, 'Creator': None})
      plt.close(figure)


if __name__ == '__main__':
  main()
