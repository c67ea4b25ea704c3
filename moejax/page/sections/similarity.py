"""The section of experts that resemble each other in weights or outputs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from moejax.page import figures
from moejax.page.data import PageData
from moejax.page.markup import Html, joined
from moejax.page.section import Section
from moejax.page.sections import certainty, load, together

# By measure: the word for it, and what its cosines are of.
KINDS = {
  'weight_similarity': ('weights', 'of all weights of experts i and j'),
  'output_similarity': (
    'outputs',
    'of the outputs of experts i and j, mean over the tokens that chose both',
  ),
}


def similarity(data: PageData) -> Html | None:
  """Means over layers, and the matrix of cosines of each layer."""
  known = {name: rows for name in KINDS if (rows := data.measures.get(name))}
  if not known:
    return None
  shown = [
    matrix(KINDS[name][0], KINDS[name][1], rows) for name, rows in known.items()
  ]
  return joined([means(known), *shown])


def means(known: Mapping[str, Mapping[str, Any]]) -> Html | None:
  """The mean similarity of two experts against the layer.

  Args:
    known: rows by measure, a key of KINDS.
  """
  curves = []
  for name, by_layer in known.items():
    rows = [row for row in by_layer.values() if row['mean'] is not None]
    if rows:
      curves.append(
        figures.curve(
          KINDS[name][0],
          [row['layer'] for row in rows],
          [row['mean'] for row in rows],
          **certainty.ends(rows, 'mean'),
        )
      )
  if not curves:
    return None  # one expert in each layer: there are no pairs
  most = max(len(curve['x']) for curve in curves)
  # The legend names several; the axis has no room for them on a telephone.
  suffix = '' if len(curves) > 1 else f' of {curves[0]["name"]}'
  figure = figures.lines(
    curves,
    x='Layer',
    y=f'Mean ReLU(cosine){suffix}',
    every=max(1, most // 16),
  )
  return figures.show(
    'similarity-by-layer',
    'Similarity of two experts',
    figure,
    '0: experts have nothing in common; 1: they are copies. Weights: mean over '
    'pairs of experts. Outputs: mean over tokens and the pairs of their '
    'experts, with the 95% interval over documents.',
  )


def matrix(word: str, cosines_of: str, rows: Mapping[str, Any]) -> Html:
  """The cosines of one kind, layer by layer.

  Args:
    word: weights or outputs.
    cosines_of: what the cosines are of.
    rows: those of the measure.
  """
  listed = [*rows.values()]
  frames = [
    frame(listed[i]) for i in load.spread(len(listed), together.MOST_LAYERS)
  ]
  values = [abs(x) for f in frames for line in f['z'] for x in line if x]
  most = max(values, default=1.0)
  figure = figures.heat(
    [],
    rows=[],
    columns=[],
    x='Expert j',
    y='Expert i',
    value='Cosine',
    least=-most,
    most=most,
    middle=0,
  )
  caption = (
    f'Cosine {cosines_of}. Similar experts stand beside each other (average '
    'linkage). The diagonal, 1 by definition, is left out.'
  )
  if any(len(row['matrix']) > together.MOST_EXPERTS for row in listed):
    caption += (
      f' The {together.MOST_EXPERTS} experts that are most like another are '
      'shown.'
    )
  return figures.show(
    f'similarity-of-{word}',
    f'Experts by their {word}',
    figures.chosen(figure, frames, by=figures.MENU, label='Layer'),
    caption,
  )


def frame(row: Mapping[str, Any]) -> dict[str, Any]:
  """The cosines of one layer, with similar experts beside each other."""
  cosine_EE = np.array(row['matrix'], np.float64)  # None is NaN
  np.fill_diagonal(cosine_EE, np.nan)
  largest_E = np.nan_to_num(cosine_EE).max(axis=1)
  kept = np.argsort(-largest_E, kind='stable')[: together.MOST_EXPERTS]
  kept = kept[together.clustered(cosine_EE[np.ix_(kept, kept)])]
  z = [
    [None if np.isnan(value) else round(float(value), 4) for value in line]
    for line in cosine_EE[np.ix_(kept, kept)]
  ]
  names = [str(expert) for expert in kept]
  return {'frame': str(row['layer']), 'z': z, 'rows': names, 'columns': names}


SECTION = Section(
  'Similarity of experts',
  similarity,
  'a trace, and weights of its step in a model that is small enough to be read '
  'at once; or moejax analyse --measures=weight_similarity,'
  'output_similarity',
)
