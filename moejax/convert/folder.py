"""A folder of a checkpoint: its config and where its tensors are.

config.json                       the config of the model
model.safetensors                 all tensors, or in several files:
model-00001-of-00002.safetensors
model.safetensors.index.json      {"weight_map": {"NAME": "model-00001-..."}}

A folder with two sets of weights is refused: moejax does not guess which one is
the model. Adapters, pickles and other files beside the weights are listed for
the user, but not read.
"""

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from moejax.convert import quantised, tensor_files
from moejax.core import errors

CONFIG, SINGLE = 'config.json', 'model.safetensors'
INDEX = SINGLE + '.index.json'
MAP = 'weight_map'
SHARD = re.compile(r'(.+)-(\d+)-of-(\d+)\.safetensors')
# Files of a peft adapter, whose weights are added to those of another model.
ADAPTER, ADAPTER_CONFIG = 'adapter_model', 'adapter_config.json'
# Front of file names in Mistral's own format, whose tensors have other names.
OWN_FORMAT = 'consolidated'
# Quantisation settings, as older versions of modelopt write them.
MODELOPT = 'hf_quant_config.json'
PICKLES = ('*.bin', '*.pt', '*.pth', '*.ckpt')
# Pickles of a trainer's state, which are no weights.
TRAINER = re.compile(r'(training_args|optimizer|scheduler|scaler|rng_state).*')
# 'owner/name' of a repository on the hub.
REPO = re.compile(r'[\w.-]+/[\w.-]+')
WANTED = ['*.safetensors', '*.json', '*.model', '*.txt', '*.jinja']


def listed(names: Iterable[str], most: int = 10) -> str:
  """The first `most` names, and the number of all names in brackets.

  Example: 'a, b (2)'; 'a, b, c, d, e, f, g, h, i, j, ... (57)'
  """
  names = list(names)
  more = ', ...' if len(names) > most else ''
  return f'{", ".join(names[:most])}{more} ({len(names)})'


def shortly(names: Iterable[str], most: int = 3) -> str:
  """As `listed`, with tensors that differ only in numbers grouped as one name.

  Example:
    'model.layers.*.mlp.experts.*.up_proj.weight (24)'
    'a, b, c, ... (7)'
  """
  groups: dict[str, list[list[str]]] = {}
  for name in sorted(names):
    words = name.split('.')
    groups.setdefault(re.sub(r'\.\d+(?=\.)', '.*', name), []).append(words)
  texts = [
    '.'.join(w[0] if len({*w}) == 1 else '*' for w in zip(*group, strict=True))
    for group in groups.values()
  ]
  more = ', ...' if len(texts) > most else ''
  total = sum(len(group) for group in groups.values())
  return f'{", ".join(texts[:most])}{more} ({total})'


@dataclasses.dataclass(frozen=True)
class Folder:
  """A checkpoint whose files are complete, judging by their headers.

  Attributes:
    path: path of the folder.
    config: content of config.json.
    tensors: tensors by name; a quantised tensor is dequantised when it is read.
    unused: names of other files that look like weights and are not read.
  """

  path: pathlib.Path
  config: dict[str, Any]
  tensors: Mapping[str, quantised.ReadableTensor]
  unused: list[str] = dataclasses.field(default_factory=list)

  @functools.cached_property
  def num_bytes(self) -> int:
    """Size of all files with tensors."""
    files = {entry.file for entry in self.tensors.values()}
    return sum(file.stat().st_size for file in files)


def find(place: str) -> pathlib.Path:
  """The local folder of a checkpoint, downloaded if necessary.

  Args:
    place: a folder or, if no such folder exists, `owner/name` of a repository
      on the Hugging Face hub, which huggingface_hub downloads.

  Raises:
    InputError: there is no such folder, and the download fails.
  """
  path = pathlib.Path(place).expanduser()
  if not path.exists() and REPO.fullmatch(place):
    path = _fetch(place)
  if not path.is_dir():
    raise errors.InputError(f'there is no folder {place!r}')
  return path


def open_folder(place: str) -> Folder:
  """Opens a checkpoint: reads its config and its headers, but no tensor.

  Args:
    place: see `find`.

  Raises:
    InputError: a file or a tensor is missing, damaged or ambiguous.
  """
  path = find(place)
  config = _config(path)
  tensors: dict[str, tensor_files.StoredTensor] = {}
  files = _files(path)
  for file, names in files.items():
    header = tensor_files.read_header(file)
    lacks = sorted(set(names) - header.keys())
    if lacks:
      raise errors.InputError(
        f'{file} lacks {listed(lacks)}, which its '
        f'index {path / INDEX} says it has; fetch both again'
      )
    for name in names or header:
      if name in tensors:
        raise errors.InputError(
          f'{name} is in {tensors[name].file} and in {file}; remove one'
        )
      tensors[name] = header[name]
  unused = _unused(path, files)
  return Folder(path, config, quantised.plain(tensors, config), unused)


def _config(path: pathlib.Path) -> dict[str, Any]:
  """Content of config.json, with modelopt's quantisation settings if any."""
  if not (path / CONFIG).exists():
    if (path / ADAPTER_CONFIG).exists():
      raise _adapter(path)
    inner = [*path.glob(f'*/{CONFIG}'), *path.glob(f'snapshots/*/{CONFIG}')]
    if inner:
      folders = [str(file.parent) for file in sorted(inner)]
      raise errors.InputError(
        f'{path} has no {CONFIG}, but folders in it have: {listed(folders, 3)}'
      )
  config = _json(path / CONFIG)
  if (path / MODELOPT).exists() and not config.get('quantization_config'):
    settings = _json(path / MODELOPT).get('quantization')
    config['quantization_config'] = {'quant_method': 'modelopt'}
    config['quantization_config'] |= settings if settings else {}
  return config


def _files(path: pathlib.Path) -> dict[pathlib.Path, list[str]]:
  """The files to read, each with the names that the index expects in it.

  Without an index the list of names is empty: any tensor is expected.
  """
  index, single = path / INDEX, path / SINGLE
  files = sorted(path.glob('*.safetensors'))
  sets = _shards(files)
  if index.exists():
    expected = _indexed(path, _json(index).get(MAP))
    if single in files and single not in expected:
      raise _two_answers(path, SINGLE, f'the files of {INDEX}')
    return expected
  if single in files:
    for shards in sets.values():
      raise _two_answers(path, SINGLE, listed([f.name for f in shards], 2))
    # Other files do not belong to it: an adapter, say, or Mistral's own format.
    return {single: []}
  if len(sets) > 1:
    names = [listed([f.name for f in shards], 2) for shards in sets.values()]
    raise _two_answers(path, *names[:2])
  for (front, count), shards in sets.items():
    numbers = {int(SHARD.sub(r'\2', file.name)) for file in shards}
    if absent := sorted({*range(1, count + 1)} - numbers):
      width = len(SHARD.sub(r'\2', shards[0].name))
      names = [f'{front}-{n:0{width}}-of-{count:0{width}}' for n in absent]
      raise errors.InputError(
        f'{path} lacks {listed([f"{name}.safetensors" for name in names], 3)}; '
        'fetch what is missing'
      )
    return {file: [] for file in shards}
  own = (ADAPTER, OWN_FORMAT)
  expected = {f: [] for f in files if not f.name.startswith(own)}
  if not expected:
    raise _no_weights(path, files)
  return expected


def _shards(
  files: list[pathlib.Path],
) -> dict[tuple[str, int], list[pathlib.Path]]:
  """Sets of files that together hold a checkpoint, by (front, count).

  Example: ('model', 2) for model-00001-of-00002.safetensors.
  """
  sets: dict[tuple[str, int], list[pathlib.Path]] = {}
  for file in files:
    match = SHARD.fullmatch(file.name)
    if match and not match[1].startswith(OWN_FORMAT):
      sets.setdefault((match[1], int(match[3])), []).append(file)
  return sets


def _two_answers(path: pathlib.Path, one: str, other: str) -> errors.InputError:
  return errors.InputError(
    f'{path} holds two sets of weights, {one} and {other}: remove the one that '
    'is not meant'
  )


def _no_weights(
  path: pathlib.Path, files: list[pathlib.Path]
) -> errors.InputError:
  """The error for a folder without weights that moejax reads, with a remedy."""
  names = [file.name for file in files]
  adapters = [n for n in names if n.startswith(ADAPTER)]
  if adapters or (path / ADAPTER_CONFIG).exists():
    return _adapter(path)
  if names:
    return errors.InputError(
      f'{path} has {listed(names, 3)} alone, weights in the format of the '
      f'release: fetch those that transformers loads, {SINGLE} or its parts'
    )
  pickles = sorted({f.name for kind in PICKLES for f in path.glob(kind)})
  if pickles:
    return errors.InputError(
      f'{path} has pickle files only: {listed(pickles)}; they can run any code '
      'when they are read, so moejax does not: save them as safetensors '
      '(transformers: model.save_pretrained)'
    )
  if ggufs := sorted(f.name for f in path.glob('*.gguf')):
    return errors.InputError(
      f'{path} has GGUF files only: {listed(ggufs, 3)}; they are quantised for '
      'llama.cpp: take the release in safetensors'
    )
  return errors.InputError(f'{path} has no *.safetensors file')


def _adapter(path: pathlib.Path) -> errors.InputError:
  """Error for a folder that holds an adapter and no model."""
  file, base = path / ADAPTER_CONFIG, None
  if file.exists():
    base = _json(file).get('base_model_name_or_path')
  base_model = f'of {base!r}' if base else 'of some model'
  return errors.InputError(
    f'{path} holds an adapter {base_model} and no model: merge the two (peft: '
    'model.merge_and_unload()), save what comes of it with save_pretrained, '
    'and give that folder'
  )


def _unused(path: pathlib.Path, read: Iterable[pathlib.Path]) -> list[str]:
  """Names of files that look like weights and were not read."""
  kinds = '*.safetensors', '*.gguf', *PICKLES
  names = {f.name for kind in kinds for f in path.glob(kind)}
  return sorted(
    name
    for name in names - {file.name for file in read}
    if not TRAINER.fullmatch(name)
  )


def _indexed(
  path: pathlib.Path, weight_map: Any
) -> dict[pathlib.Path, list[str]]:
  """The files that an index names, each with the names of its tensors."""
  index = path / INDEX
  if not isinstance(weight_map, dict) or not all(
    isinstance(file, str) for file in weight_map.values()
  ):
    raise errors.InputError(f'{index} has no {MAP} from tensors to files')
  outside = sorted({
    file
    for file in weight_map.values()
    if file != pathlib.PurePath(file).name
    or file in ('', '.', '..')
    or '\\' in file
  })
  if outside:
    raise errors.InputError(
      f'{index} names files that are not in its folder: {listed(outside)}; '
      'moejax reads nothing outside'
    )
  absent = sorted({f for f in weight_map.values() if not (path / f).is_file()})
  if absent:
    raise errors.InputError(
      f'{index} names files that are not there: {listed(absent)}; fetch them'
    )
  files: dict[pathlib.Path, list[str]] = {}
  for name, file in weight_map.items():
    files.setdefault(path / file, []).append(name)
  return files


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise errors.InputError(f'{path.parent} has no {path.name}') from None
  except ValueError as e:
    raise errors.InputError(f'{path} is not JSON: {e}') from None
  if not isinstance(content, dict):
    raise errors.InputError(f'{path} must be a JSON object')
  return content


def _fetch(repo: str) -> pathlib.Path:
  """Downloads a repository; returns its folder in huggingface_hub's cache."""
  try:
    import huggingface_hub
  except ImportError:
    raise errors.InputError(
      f'there is no folder {repo!r}; to fetch it from the hub: '
      "pip install 'moejax[hf]'"
    ) from None
  try:
    path = huggingface_hub.snapshot_download(repo, allow_patterns=WANTED)
  except Exception as e:  # noqa: BLE001 (of many libraries below it)
    raise errors.InputError(
      f'there is no folder {repo!r}, and the hub does not give it: '
      f'{str(e).splitlines()[0]}'
    ) from None
  return pathlib.Path(path)
