"""Shape checks while tracing: free at run time."""

from typing import Any


def dims(spec: str, x: Any, **known: int) -> dict[str, int]:
  """The sizes of an array's dimensions by name, checked against `known`.

  Example:
    dims('T D', x_TD, D=2048)  ->  {'T': 4096, 'D': 2048}

  Raises:
    ValueError: the number or a size of the dimensions is another one. Example:
      want D=2048 in [T D], got (4096, 1024)
  """
  names = spec.split()
  if len(names) != len(x.shape):
    raise ValueError(f'want [{spec}], got {tuple(x.shape)}')
  sizes: dict[str, int] = {}
  for name, size in zip(names, x.shape, strict=True):
    want = known.get(name, sizes.get(name, size))
    if size != want:
      raise ValueError(f'want {name}={want} in [{spec}], got {tuple(x.shape)}')
    sizes[name] = size
  return sizes
