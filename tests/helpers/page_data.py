"""A made-up run of which every section of the page has something to show."""

import numpy as np

from moejax.analysis.trace import Trace
from moejax.page.data import PageData, Picture

DOMAINS = ('code', 'bible')


def trace(num_tokens=6, documents=2, step=40):
  """Two layers of four experts, two for each token; one rank has none."""
  rng = np.random.default_rng(0)
  expert_TNK = np.argsort(rng.random((num_tokens, 2, 4)), axis=2)[..., :2]
  expert_TNK = expert_TNK.astype(np.int16)
  expert_TNK[0, 0, 1] = -1
  weight_TNK = np.sort(rng.random((num_tokens, 2, 2)))[..., ::-1]
  document_T = np.arange(num_tokens) * documents // num_tokens
  return Trace(
    step=step,
    tokens_seen=0,
    layers=(1, 2),
    num_experts=4,
    domains=DOMAINS,
    expert_TNK=expert_TNK,
    weight_TNK=weight_TNK.astype(np.float32),
    dropped_TNK=np.zeros(expert_TNK.shape, bool),
    entropy_TN=rng.random((num_tokens, 2)).astype(np.float32),
    token_T=(np.arange(num_tokens) % 50).astype(np.int32),
    position_T=np.arange(num_tokens, dtype=np.int32),
    document_T=document_T.astype(np.int32),
    domain_T=(document_T % 2).astype(np.int16),
  )


def metrics():
  rows = [
    {
      'step': step,
      'loss': 8.0 - step / 20,
      'gradient_norm': 1.0,
      'time/tokens_per_s': 5000.0,
      'time/step_s': 0.4,
      'moe/load_max': 2.0,
      'moe/load_max_median_layer': 1.5,
      'moe/dead_experts': 0.0,
      'evals/offline_cloze/accuracy': 0.25,
    }
    for step in (10, 20, 30, 40)
  ]
  for row in rows[1::2]:
    row['moe/load'] = [[1, 1, 1, 1], [2, 1, 0.5, 0.5]]
  losses = {20: 6.0, 40: 5.0}
  rows += [
    {'step': step, 'eval/code/loss': loss, 'eval/bible/loss': loss,
     'eval/loss': loss}
    for step, loss in losses.items()
  ]  # fmt: skip
  return sorted(rows, key=lambda row: row['step'])


def score(bits):
  return {
    'loss': 5.0, 'perplexity': 148.4, 'accuracy': 0.2, 'tokens': 100,
    'bits_per_byte': bits, 'bits_low': bits - 0.1, 'bits_high': bits + 0.1,
    'unigram': 3.0, 'xz': 1.5,
  }  # fmt: skip


def by_layer(column, steps=(20, 40), **more):
  rows = {}
  for step in steps:
    for layer in (1, 2, None):
      where = 'all layers' if layer is None else f'layer {layer}'
      rows[f'step {step}, {where}'] = {
        'step': step, 'tokens_seen': 0, 'layer': layer, column: 0.5,
        f'{column}_low': 0.4, f'{column}_high': 0.6, **more,
      }  # fmt: skip
  return rows


def similar(*pairs):
  """Cosines of four experts: 0.8 in each pair, 0.1 in others, one unknown."""
  cosine = np.full((4, 4), 0.1)
  for i, j in pairs:
    cosine[i, j] = cosine[j, i] = 0.8
  np.fill_diagonal(cosine, 1)
  cosine = cosine.tolist()
  cosine[0][3] = cosine[3][0] = None
  return cosine


def measures():
  matrix = np.full((4, 4), 0.25)
  np.fill_diagonal(matrix, 1)
  layers = (1, 2)
  return {
    'saturation': by_layer('topk', top1=0.4),
    'change_rate': by_layer('set', slot=0.6),
    'margin': by_layer('weight'),
    'gate_entropy': by_layer('normalised'),
    'coactivation': {
      f'layer {n}': {'layer': n, 'count': [3, 2, 2, 1],
                     'matrix': matrix.tolist()}
      for n in layers
    },
    'weight_similarity': {
      f'layer {n}': {'layer': n, 'mean': 0.02, 'cosine': 0.01,
                     'matrix': similar((0, 2), (1, 3))}
      for n in layers
    },
    'output_similarity': {
      f'layer {n}': {'layer': n, 'mean': 0.2, 'mean_low': 0.1,
                     'mean_high': 0.3, 'matrix': similar((0, 1), (2, 3))}
      for n in layers
    },
    'domain_specialisation': {
      f'layer {n}, {domain}': {
        'layer': n, 'domain': domain, 'largest': 0.9, 'expert': 0,
        'uniform': 0.5, 'share': [0.9, 0.5, 0.3, 0.3],
      }
      for n in layers
      for domain in DOMAINS
    },
    'entropy_by_position': {
      'position 0': {'from': 0, 'to': 0, 'entropy': 1.0, 'entropy_low': 0.9,
                     'entropy_high': 1.1},
      'position 1 to 2': {'from': 1, 'to': 2, 'entropy': 0.8,
                          'entropy_low': 0.7, 'entropy_high': 0.9},
    },
    'vocabulary': {
      f'layer {n}, expert {e}': {'layer': n, 'expert': e,
                                 'tokens': [[e, 12, 0.5, 2.5]]}
      for n in layers
      for e in range(4)
    },
  }  # fmt: skip


def intervention():
  row = {'on': 'mean', 'metric': 'loss', 'bits_per_byte': 2.0}
  ends = {'difference': 0.5, 'low': 0.4, 'high': 0.6}
  return {
    'what': 'mask_top',
    'summary': 'the top routed experts masked',
    'value': 'Ratio of masked experts',
    'rows': [
      {'value': None, 'number': None, **row, 'score': 5.0,
       **dict.fromkeys(ends)},
      {'value': '0', 'number': 0.0, **row, 'score': 5.0, **ends},
      {'value': '1/8', 'number': 0.125, **row, 'score': 5.5, **ends},
    ],
  }  # fmt: skip


def full():
  return PageData(
    name='tiny',
    config={
      'seed': 0,
      'model': {
        'num_layers': 3, 'width': 64, 'first_dense': 1, 'moe_every': 1,
        'dtype': 'float32',
        'moe': {'num_experts': 4, 'num_shared': 1,
                'router': {'name': 'top_k', 'k': 2}},
      },
      'data': {'sequence_length': 256},
      'train': {'steps': 40, 'batch_size': 8},
    },
    versions={'python': '3.13', 'git': {'commit': 'abcdef' * 6},
              'devices': {'kind': 'cpu', 'count': 1}},
    metrics=metrics(),
    report={
      'domains': {'code': score(2.0), 'bible': score(2.5)},
      'samples': [{'prompt': 'In the', 'text': 'In the beginning'}],
      'steps': 40, 'total_parameters': 9_709_248,
      'active_parameters': 3_958_464,
    },
    goodput={'starts': 1, 'seconds': {'step': 30.0, 'compile': 10.0}},
    plan={'topology': 'v5p:2x2x1', 'parameters': {'total': 1, 'active': 1},
          'estimates': {'compiler': {'step_seconds': 0.1}}},
    measures=measures(),
    published={'saturation': {'OLMoE': [[1, 0.5], [100, 1.0]]}},
    interventions={'mask_top': intervention()},
    trace=trace(),
    words={0: 'In', 1: ' the'},
    texts=['In', ' the', ' end', 'def', ' f', '('],
    pictures=[Picture(1, 3, 2)],
  )  # fmt: skip
