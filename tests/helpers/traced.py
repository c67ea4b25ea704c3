"""Traces made by hand: what is not said has a plain value."""

import numpy as np

from moejax.analysis.trace import Trace
from moejax.analysis.traces import Traces


def trace(experts, *, num_experts=4, step=1, **fields):
  """A trace from the experts as nested lists, [tokens][layers][k].

  Args:
    experts: the ids, -1 for none.
    num_experts: E.
    step: of the checkpoint.
    **fields: of `Trace`, as lists; by default the tokens are of one document of
      one domain, experts weigh the same, and none is dropped.
  """
  expert_TNK = np.array(experts, np.int16)
  has_TNK = expert_TNK >= 0
  num_tokens, num_layers, _ = expert_TNK.shape
  values = {
    'tokens_seen': 100 * step,
    'layers': tuple(range(num_layers)),
    'domains': ('text',),
    'weight_TNK': has_TNK / np.maximum(has_TNK.sum(-1, keepdims=True), 1),
    'dropped_TNK': np.zeros_like(has_TNK),
    'entropy_TN': np.zeros((num_tokens, num_layers)),
    'token_T': np.arange(num_tokens),
    'position_T': np.arange(num_tokens),
    'document_T': np.zeros(num_tokens),
    'domain_T': np.zeros(num_tokens),
    **fields,
  }
  types = {
    'weight_TNK': np.float32,
    'dropped_TNK': bool,
    'entropy_TN': np.float32,
    'token_T': np.int32,
    'position_T': np.int32,
    'document_T': np.int32,
    'domain_T': np.int16,
    'logits_TNE': np.float32,
  }
  for name, dtype in types.items():
    if values.get(name) is not None:
      values[name] = np.asarray(values[name], dtype)
  return Trace(
    step=step, num_experts=num_experts, expert_TNK=expert_TNK, **values
  )


def one(experts, **fields):
  """`Traces` of one trace."""
  return Traces.of([trace(experts, **fields)])


def random(
  tokens=60, layers=2, k=2, num_experts=6, documents=5, seed=0, step=1, **fields
):
  """A trace of draws without replacement, some ranks empty or dropped."""
  rng = np.random.default_rng([seed, step])
  text = np.random.default_rng(seed)
  order = rng.random((tokens, layers, num_experts)).argsort(axis=-1)
  expert_TNK = order[..., :k]
  num_TN1 = rng.integers(0, k + 1, (tokens, layers, 1))
  has_TNK = np.arange(k) < num_TN1
  weight_TNK = np.sort(rng.random((tokens, layers, k)))[..., ::-1] * has_TNK
  values = {
    'domains': ('code', 'news'),
    'weight_TNK': weight_TNK,
    'dropped_TNK': has_TNK & (rng.random(has_TNK.shape) < 0.1),
    'entropy_TN': rng.random((tokens, layers)),
    'token_T': text.integers(0, 7, tokens),
    'document_T': np.sort(text.integers(0, documents, tokens)),
    **fields,
  }
  values.setdefault('domain_T', values['document_T'] % 2)
  experts = np.where(has_TNK, expert_TNK, -1)
  return trace(experts, num_experts=num_experts, step=step, **values)
