"""The parts of a model, by which profiles name an operation.

  @scopes.part('attention')
  def attend(...): ...

All operations that are traced in the function have the part in their name
(`jax.named_scope`), in the backward pass too. Of nested parts the inner one
counts. Names change nothing of what is computed.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

F = TypeVar('F', bound=Callable[..., Any])

# What each part is, in the words of a summary.
PARTS: Mapping[str, str] = {
  'attention': 'attention',
  'router': 'routers',
  'dispatch': 'rows to experts and back',
  'experts': 'routed experts',
  'shared_experts': 'shared experts',
  'feed_forward': 'other feed-forward layers',
  'balance': 'balance losses and statistics',
  'embedding': 'embedding',
  'images': 'images',
  'head': 'output head and loss',
  'optimiser': 'optimiser',
}
_NAME = re.compile(rf'(?<![\w.])({"|".join(PARTS)})(?![\w.])')


def part(name: str) -> Callable[[F], F]:
  """Names all operations of a function as those of a part.

  Args:
    name: a key of PARTS.
  """
  if name not in PARTS:
    raise ValueError(f'{name} is none of {", ".join(PARTS)}')
  return jax.named_scope(name)


def part_of(name: str) -> str:
  """The part in the name of an operation; '' if it is in none.

  Args:
    name: `op_name` of an instruction's metadata, such as
      'jit(step)/transpose(jvp())/while/body/attention/dot_general'.
  """
  found = _NAME.findall(name.rpartition('/')[0])
  return found[-1] if found else ''
