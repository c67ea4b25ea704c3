"""A folder of a checkpoint: its config and where its tensors are.

config.json                       what model it is
model.safetensors                 or, of several files:
model-00001-of-00002.safetensors
model.safetensors.index.json      {"weight_map": {"NAME": "model-00001-..."}}
"""

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from moejax.convert import quantised, safetensors
from moejax.core import errors

CONFIG, SINGLE = 'config.json', 'model.safetensors'
INDEX = SINGLE + '.index.json'
MAP = 'weight_map'
PICKLES = ('*.bin', '*.pt', '*.pth', '*.ckpt')
# 'owner/name': what is fetched where there is no such folder.
REPO = re.compile(r'[\w.-]+/[\w.-]+')
WANTED = ['*.safetensors', '*.json', '*.model', '*.txt', '*.jinja']


def listed(names: Iterable[str], most: int = 10) -> str:
  """The first names and how many there are.

  Example: 'a, b (2)'; 'a, b, c, d, e, f, g, h, i, j, ... (57)'
  """
  names = list(names)
  more = ', ...' if len(names) > most else ''
  return f'{", ".join(names[:most])}{more} ({len(names)})'


@dataclasses.dataclass(frozen=True)
class Folder:
  """A checkpoint that was found whole, as far as its headers tell.

  Attributes:
    path: the folder.
    config: what config.json says.
    tensors: what there is, by name; quantised ones read as what they stand for.
  """

  path: pathlib.Path
  config: dict[str, Any]
  tensors: dict[str, safetensors.Entry]

  @functools.cached_property
  def num_bytes(self) -> int:
    """Of all its files of tensors."""
    files = {entry.file for entry in self.tensors.values()}
    return sum(file.stat().st_size for file in files)


def open_folder(place: str) -> Folder:
  """Reads config and headers, no tensor.

  Args:
    place: a folder, or `owner/name` of a repository on the Hugging Face hub,
      which is then fetched by huggingface_hub.

  Raises:
    InputError: something of it is missing or unusable.
  """
  path = pathlib.Path(place).expanduser()
  if not path.exists() and REPO.fullmatch(place):
    path = _fetch(place)
  if not path.is_dir():
    raise errors.InputError(f'there is no folder {place!r}')
  config = _json(path / CONFIG)
  tensors = {}
  for file, names in _files(path).items():
    found = safetensors.entries(file)
    lacks = sorted(set(names) - found.keys())
    if lacks:
      raise errors.InputError(
        f'{file} lacks {listed(lacks)}, which its '
        f'index {path / INDEX} says it has; fetch both again'
      )
    for name in names or found:
      if name in tensors:
        raise errors.InputError(
          f'{name} is in {tensors[name].file} and in {file}; remove one'
        )
      tensors[name] = found[name]
  return Folder(path, config, quantised.plain(tensors, config))


def _files(path: pathlib.Path) -> dict[pathlib.Path, list[str]]:
  """The files to read, each with what the index expects in it."""
  index = path / INDEX
  if index.exists():
    return _indexed(path, _json(index).get(MAP))
  files = sorted(path.glob('*.safetensors'))
  single = path / SINGLE
  if single in files:
    # Others beside it are something else: adapters, the release's own format.
    return {single: []}
  if files:
    return {file: [] for file in files}
  pickles = sorted({f.name for kind in PICKLES for f in path.glob(kind)})
  if pickles:
    raise errors.InputError(
      f'{path} has pickle files only: {listed(pickles)}; they can run any code '
      'when they are read, so moejax does not: save them as safetensors '
      '(transformers: model.save_pretrained)'
    )
  raise errors.InputError(f'{path} has no *.safetensors file')


def _indexed(path: pathlib.Path, found: Any) -> dict[pathlib.Path, list[str]]:
  index = path / INDEX
  if not isinstance(found, dict) or not all(
    isinstance(file, str) for file in found.values()
  ):
    raise errors.InputError(f'{index} has no {MAP} from tensors to files')
  outside = sorted({
    file
    for file in found.values()
    if file != pathlib.PurePath(file).name
    or file in ('', '.', '..')
    or '\\' in file
  })
  if outside:
    raise errors.InputError(
      f'{index} names files that are not in its folder: {listed(outside)}; '
      'moejax reads nothing outside'
    )
  absent = sorted({f for f in found.values() if not (path / f).is_file()})
  if absent:
    raise errors.InputError(
      f'{index} names files that are not there: {listed(absent)}; fetch them'
    )
  files = {}
  for name, file in found.items():
    files.setdefault(path / file, []).append(name)
  return files


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise errors.InputError(f'{path.parent} has no {path.name}') from None
  except ValueError as e:
    raise errors.InputError(f'{path} is not JSON: {e}') from None
  if not isinstance(found, dict):
    raise errors.InputError(f'{path} must be a JSON object')
  return found


def _fetch(repo: str) -> pathlib.Path:
  """The folder that huggingface_hub keeps of a repository."""
  try:
    import huggingface_hub
  except ImportError:
    raise errors.InputError(
      f'there is no folder {repo!r}; to fetch it from the hub: '
      "pip install 'moejax[hf]'"
    ) from None
  try:
    found = huggingface_hub.snapshot_download(repo, allow_patterns=WANTED)
  except Exception as e:  # noqa: BLE001 (of many libraries below it)
    raise errors.InputError(
      f'there is no folder {repo!r}, and the hub does not give it: '
      f'{str(e).splitlines()[0]}'
    ) from None
  return pathlib.Path(found)
