"""Rows of benchmarks: from a folder, the Hugging Face hub or TFDS, and checked.

  --data=hub      the Hugging Face hub, by the package `datasets`
  --data=tfds     TensorFlow Datasets
  --data=FOLDER   files of a folder, local or gs://, in the published schema:
                  FOLDER/hellaswag/validation.jsonl
                  FOLDER/mmlu/anatomy/test.parquet    (a configuration each)
                  FOLDER/ai2_arc/ARC-Easy/test-00000-of-00001.parquet
                                                      (as the hub has them)

A split is one file that ends in .jsonl, .json (a list of objects,
or one a line), .csv or
.parquet, or the shards of a parquet file. Every problem with a row is an
InputError of one line that names its place.
"""

import csv
import functools
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from moejax.core import errors
from moejax.data import seqio_bridge
from moejax.evals import items, picture
from moejax.evals.benchmark import Dataset, Row

# The column that names a row's configuration where a dataset has several.
CONFIG = 'config'


class Entry(NamedTuple):
  """A row and its place.

  Attributes:
    where: the place, for messages: 'x/validation.jsonl:3'.
    row: the columns.
  """

  where: str
  row: Row


def load(name: str, dataset: Dataset, split: str, data: str) -> list[Entry]:
  """The rows of a split, which have the columns of the dataset.

  Args:
    name: the benchmark's, for folders and messages.
    dataset: where its rows are, and what they look like.
    split: the split.
    data: 'hub', 'tfds' or a folder; not used where the rows are made here.

  Raises:
    InputError: the rows cannot be read, there are none, or one lacks a column
      or has a value of another type.
  """
  if dataset.rows is not None:
    made = enumerate(dataset.rows(split), 1)
    return [Entry(f'{name} {split} row {i}', row) for i, row in made]
  if dataset.images and data in SOURCES:
    raise errors.InputError(
      f'{name}: images are read from a folder alone: put the files of '
      f'{dataset.hub} there and give --data=FOLDER, not {data}'
    )
  source = SOURCES.get(data, _from_folder)
  entries = []
  for config, entry_rows in source(name, dataset, split, data):
    for where, row in entry_rows:
      whole = {CONFIG: config, **row} if config else row
      try:
        items.check_row(dataset, whole)
      except errors.InputError as e:
        raise errors.InputError(f'{where}: {e}') from None
      entries.append(Entry(where, whole))
  if not entries:
    raise errors.InputError(f'{name}: split {split!r} of {data} has no rows')
  return entries


# By configuration ('' for the only one), the entries of a split.
Configs = Iterator[tuple[str, Iterator[Entry]]]


# Folders


def _from_folder(name: str, dataset: Dataset, split: str, data: str) -> Configs:
  top = epath.Path(data)
  if not top.is_dir():
    raise errors.InputError(
      f'--data={data}: there is no such folder; give one, or hub or tfds'
    )
  names = dict.fromkeys([name, dataset.hub.rpartition('/')[2]])
  places = [top / n for n in names if n and (top / n).is_dir()]
  if not places:
    raise errors.InputError(
      f'--data={data} has no folder {name!r}, for the rows of {name}'
    )
  for place in places:
    if by_config := _by_config(place, dataset, split):
      for config, paths in by_config.items():
        yield config, _read(paths, dataset)
      return
  wanted = ', '.join(split + ending for ending in READERS)
  shown = errors.shown(places[0])
  lacking = [
    c
    for c in dataset.configs
    if not _config_files(places[0], dataset, c, split)
  ]
  has_none = f'{shown} has no split {split!r}'
  if dataset.config:
    has_none = f'{shown} (in folder {dataset.config}) has no split {split!r}'
  if lacking:
    has_none = (
      f'{shown} has no split {split!r} of {len(lacking)} of its '
      f'{len(dataset.configs)} folders, the first is {lacking[0]}'
    )
  raise errors.InputError(
    f'{name}: {has_none}: none of {wanted}, and no {split}-*-of-*.parquet'
  )


def _config_files(
  place: epath.Path, dataset: Dataset, config: str, split: str
) -> list[epath.Path]:
  """The files of one of several configurations."""
  other = dataset.config_names.get(config, config)
  return _files_in(place / config, split) or _files_in(place / other, split)


def _by_config(
  place: epath.Path, dataset: Dataset, split: str
) -> dict[str, list[epath.Path]]:
  """Files of each configuration ('' for the only one); {} if some lack."""
  if dataset.configs:
    by_config = {
      c: _config_files(place, dataset, c, split) for c in dataset.configs
    }
    return by_config if all(by_config.values()) else {}
  folders = [place / dataset.config] if dataset.config else []
  for folder in [*folders, place, place / 'data']:
    if paths := _files_in(folder, split):
      return {'': paths}
  return {}


def _files_in(folder: epath.Path, split: str) -> list[epath.Path]:
  for ending in READERS:
    if (path := folder / f'{split}{ending}').exists():
      return [path]
  shards = folder.glob(f'{split}-*-of-*.parquet') if folder.is_dir() else ()
  _check_shards(folder, found := sorted(shards))
  return found


def _check_shards(folder: epath.Path, shards: Sequence[epath.Path]) -> None:
  """Raises InputError if a shard is missing, by the numbers in the names."""
  named = [re.search(r'-(\d+)-of-(\d+)', path.name) for path in shards]
  numbers = [(int(m[1]), int(m[2])) for m in named if m]
  for total in {total for _, total in numbers}:
    there = {number for number, of in numbers if of == total}
    if missing := sorted({*range(total)} - there):
      raise errors.InputError(
        f'{errors.shown(folder)}: {shards[0].name} is one of {total} files, '
        f'and number {missing[0]:05d} is missing: download all of them'
      )


def _read(paths: Sequence[epath.Path], dataset: Dataset) -> Iterator[Entry]:
  for path in paths:
    for where, row in READERS[path.suffix](path, dataset):
      pictures = {
        name: picture.of_cell(row[name], path.parent, f'{where}, {name}')
        for name in dataset.images
        if name in row
      }
      yield Entry(where, {**row, **pictures} if pictures else row)


def _read_jsonl(path: epath.Path, dataset: Dataset) -> Iterator[Entry]:
  del dataset
  for number, line in enumerate(_text(path).split('\n'), 1):
    if line.strip():
      where = f'{errors.shown(path)}:{number}'
      yield Entry(where, _object(where, _json(where, line)))


def _read_json(path: epath.Path, dataset: Dataset) -> Iterator[Entry]:
  """Rows of a list of objects; or of lines, as some sites call .json."""
  text = _text(path)
  if text.lstrip().startswith('{'):
    yield from _read_jsonl(path, dataset)
    return
  where = errors.shown(path)
  listed = _json(where, text)
  if not isinstance(listed, list):
    raise errors.InputError(f'{where} must be a list of objects')
  for number, value in enumerate(listed, 1):
    place = f'{where} row {number}'
    yield Entry(place, _object(place, value))


def _read_csv(path: epath.Path, dataset: Dataset) -> Iterator[Entry]:
  """Rows of a .csv file with a header; cells of other types are JSON."""
  reader = csv.DictReader(io.StringIO(_text(path), newline=''))
  try:
    for row in reader:
      where = f'{errors.shown(path)}:{reader.line_num}'
      if None in row or None in row.values():
        raise errors.InputError(
          f'{where}: the row has not as many cells as the header'
        )
      yield Entry(
        where,
        {k: _cell(v, dataset.columns.get(k, str)) for k, v in row.items()},
      )
  except csv.Error as e:
    raise errors.InputError(
      f'{errors.shown(path)}:{reader.line_num + 1}: not CSV ({e}): close its '
      'quotes, or give the rows as .jsonl'
    ) from None


def _cell(text: str, kind: type | tuple[type, ...]) -> Any:
  """A cell as a value of its column's type; the text itself if it is none."""
  if issubclass(str, kind):
    return text
  try:
    return json.loads(text)
  except ValueError:
    return text


def _read_parquet(path: epath.Path, dataset: Dataset) -> Iterator[Entry]:
  del dataset
  import pyarrow
  import pyarrow.parquet

  where = errors.shown(path)
  try:
    table = pyarrow.parquet.read_table(io.BytesIO(path.read_bytes()))
  except (pyarrow.ArrowException, OSError) as e:
    raise errors.InputError(
      f'{where} is not a whole parquet file ({str(e).splitlines()[0]})'
    ) from None
  for number, row in enumerate(table.to_pylist(), 1):
    yield Entry(f'{where} row {number}', row)


READERS: dict[str, Callable[[epath.Path, Dataset], Iterator[Entry]]] = {
  '.jsonl': _read_jsonl,
  '.json': _read_json,
  '.csv': _read_csv,
  '.parquet': _read_parquet,
}


def _text(path: epath.Path) -> str:
  try:
    return path.read_bytes().decode('utf-8-sig')
  except UnicodeDecodeError as e:
    raise errors.InputError(
      f'{errors.shown(path)} is not UTF-8 at byte {e.start}'
    ) from None
  except OSError as e:
    raise errors.InputError(
      f'{errors.shown(path)} cannot be read ({e.strerror or e})'
    ) from None


def _json(where: str, text: str) -> Any:
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as e:
    raise errors.InputError(f'{where}: not JSON ({e})') from None


def _object(where: str, value: Any) -> Row:
  if not isinstance(value, dict):
    raise errors.InputError(f'{where}: not a JSON object')
  try:
    json.dumps(value, ensure_ascii=False).encode()
  except UnicodeEncodeError:
    raise errors.InputError(
      f'{where}: a text has half of a surrogate pair, such as \\ud83d alone, '
      'which is no character: mend or remove the row'
    ) from None
  return value


# Hosted collections


def _from_hub(name: str, dataset: Dataset, split: str, data: str) -> Configs:
  del data
  try:
    import datasets
  except ImportError:
    raise errors.InputError(
      '--data=hub needs the package datasets: pip install datasets, or give '
      '--data=FOLDER'
    ) from None

  def read(work: Callable[[], Any]) -> Any:
    try:
      return work()
    except Exception as e:  # noqa: BLE001 (whatever the network raises)
      raise errors.InputError(
        f'{name}: {dataset.hub} cannot be read from the Hugging Face hub '
        f'({_first_line(e)}); where there is no network, put its files in a '
        'folder and give --data=FOLDER'
      ) from None

  for config in dataset.configs or (dataset.config,):
    loaded = read(
      functools.partial(
        datasets.load_dataset, dataset.hub, config or None, split=split
      )
    )
    place = f'{dataset.hub} {config} {split}'.replace('  ', ' ')
    yield config if dataset.configs else '', _numbered(place, loaded)


def _from_tfds(name: str, dataset: Dataset, split: str, data: str) -> Configs:
  del data
  if not dataset.tfds:
    raise errors.InputError(
      f'{name} is not in TensorFlow Datasets; give --data=hub or --data=FOLDER'
    )
  what, instead = f'{name} with --data=tfds', 'give --data=hub or --data=FOLDER'
  with seqio_bridge.needed(
    what, 'tensorflow-datasets', instead, seqio_bridge.EXTRA
  ):
    import tensorflow_datasets as tfds
  try:
    loaded = tfds.as_numpy(tfds.load(dataset.tfds, split=split))
  except Exception as e:  # noqa: BLE001 (whatever the network raises)
    raise errors.InputError(
      f'{name}: {dataset.tfds} cannot be read from TensorFlow Datasets '
      f'({_first_line(e)}); prepare it where there is a network, or give '
      '--data=FOLDER'
    ) from None
  yield '', _numbered(f'{dataset.tfds} {split}', map(_plain, loaded))


def _numbered(place: str, loaded: Any) -> Iterator[Entry]:
  for number, row in enumerate(loaded, 1):
    yield Entry(f'{place} row {number}', row)


def _first_line(error: Exception) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0]


def _plain(value: Any) -> Any:
  """Bytes as text, arrays as lists: the types of the other sources."""
  if isinstance(value, bytes):
    return value.decode()
  if isinstance(value, dict):
    return {k: _plain(v) for k, v in value.items()}
  if hasattr(value, 'tolist'):
    return _plain(value.tolist())
  if isinstance(value, list):
    return [_plain(v) for v in value]
  return value


SOURCES: dict[str, Callable[[str, Dataset, str, str], Configs]] = {
  'hub': _from_hub,
  'tfds': _from_tfds,
}
