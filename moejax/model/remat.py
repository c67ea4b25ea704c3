"""POLICIES: which results of a block are kept for the backward pass, by name.

The backward pass recomputes the others (rematerialisation).
"""

from collections.abc import Callable
from typing import Any

import jax

from moejax.core import linear


def _keep_all(f: Callable[..., Any]) -> Callable[..., Any]:
  return f


def _keep_nothing(f: Callable[..., Any]) -> Callable[..., Any]:
  return jax.checkpoint(f, prevent_cse=False)


def _keep_matmuls(f: Callable[..., Any]) -> Callable[..., Any]:
  policies = jax.checkpoint_policies
  policy = policies.save_from_both_policies(
    policies.dots_with_no_batch_dims_saveable,
    policies.save_only_these_names(linear.NAME),
  )
  return jax.checkpoint(f, prevent_cse=False, policy=policy)


# name in a config -> wrapper of the function that computes one block
POLICIES = {
  'none': _keep_all,
  'matmuls': _keep_matmuls,
  'full': _keep_nothing,
}
