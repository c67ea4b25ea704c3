"""The section of experts that are chosen together."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from moejax.page import figures
from moejax.page.data import PageData
from moejax.page.markup import Html
from moejax.page.section import Section
from moejax.page.sections import load

MOST_EXPERTS = 64  # of a matrix
MOST_LAYERS = 16


def together(data: PageData) -> Html | None:
  """The matrix N_ij / N_i of a layer, experts in the order of a clustering."""
  rows = data.measures.get('coactivation')
  if not rows:
    return None
  listed = [*rows.items()]
  frames = [
    frame(name, row)
    for name, row in (listed[i] for i in load.spread(len(listed), MOST_LAYERS))
  ]
  largest = max(
    (value for f in frames for line in f['z'] for value in line if value),
    default=1.0,
  )
  figure = figures.heat(
    [],
    rows=[],
    columns=[],
    x='Expert j',
    y='Expert i',
    value='Share of i',
    least=0,
    most=largest,
  )
  chosen = figures.chosen(figure, frames, by=figures.MENU, label='Layer')
  caption = (
    'Of the tokens that chose expert i, the share that chose j too. Experts '
    'that are chosen together stand beside each other (average linkage). '
    'The diagonal, 1 by definition, is left out.'
  )
  if any(len(row['matrix']) > MOST_EXPERTS for row in rows.values()):
    caption += f' The {MOST_EXPERTS} experts with the most tokens are shown.'
  return figures.show(
    'coactivation', 'Experts chosen together', chosen, caption
  )


def frame(name: str, row: Any) -> dict[str, Any]:
  """The matrix of one layer, with its experts in order."""
  share_EE = np.array(row['matrix'], np.float64)
  most = np.argsort(-np.asarray(row['count']), kind='stable')[:MOST_EXPERTS]
  kept = share_EE[np.ix_(most, most)]
  order = clustered(kept)
  experts = most[order]
  shown = kept[np.ix_(order, order)]
  np.fill_diagonal(shown, np.nan)
  names = [str(expert) for expert in experts]
  z = [
    [None if np.isnan(value) else round(float(value), 3) for value in line]
    for line in shown
  ]
  number = name.removeprefix('layer ')
  return {'frame': number, 'z': z, 'rows': names, 'columns': names}


def clustered(share_EE: np.ndarray) -> Sequence[int]:
  """An order of experts in which similar ones are neighbours.

  The distance of two experts is 1 minus the mean of their two shares; average
  linkage, with the leaves in the best order (Bar-Joseph et al., 2001).
  """
  from scipy.cluster import hierarchy
  from scipy.spatial import distance

  num = len(share_EE)
  if num < 3:
    return [*range(num)]
  share_EE = np.nan_to_num(share_EE)
  apart_EE = np.clip(1 - (share_EE + share_EE.T) / 2, 0, None)
  np.fill_diagonal(apart_EE, 0)
  pairs = distance.squareform(apart_EE, checks=False)
  tree = hierarchy.linkage(pairs, 'average', optimal_ordering=True)
  return hierarchy.leaves_list(tree).tolist()


SECTION = Section(
  'Co-activation',
  together,
  'a trace: report.trace_tokens, or moejax trace',
)
