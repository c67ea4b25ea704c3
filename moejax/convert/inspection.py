"""Describes a Hugging Face folder in lines, without reading a tensor."""

import collections
from collections.abc import Iterator

from moejax.convert import folder as folders
from moejax.convert import load, whole
from moejax.core import config_tree
from moejax.model.config import ModelConfig


def lines(name: str) -> Iterator[str]:
  """Lines about the tensors of a folder and the model that they make.

  The last lines are the keys on which its ModelConfig differs from the default.

  Args:
    name: a folder, or `owner/name` on the hub.

  Raises:
    InputError: the folder cannot be opened, or does not fit a known family.
  """
  folder = folders.open_folder(name)
  model_type = folder.config.get('model_type')
  types = collections.Counter(entry.dtype for entry in folder.tensors.values())
  listing = ', '.join(f'{n} of {dtype}' for dtype, n in types.most_common())
  num_files = len({entry.file for entry in folder.tensors.values()})
  yield (
    f'{folder.path}: a {model_type}, {len(folder.tensors)} tensors ({listing}),'
    f' {folder.num_bytes / 1e9:.2f} GB in {num_files} '
    f'file{"s" if num_files > 1 else ""}.'
  )
  plan = whole.plan(folder)
  total = sum(tensor.size for tensor in plan.tensors)
  config = plan.config
  yield (
    f'Fits {plan.family.model_type}: {total / 1e6:.1f}M parameters, '
    f'{config.num_layers} layers, {config.num_moe} with '
    f'{config.moe.num_experts} experts (stored {plan.layout}); '
    f'{4 * total / 1e9:.2f} GB in float32.'
  )
  yield from load.remarks(plan)
  differences = config_tree.differences(ModelConfig(), config)
  for key, (_, value) in differences.items():
    yield f'  model.{key} = {value}'
