"""Files beside the weights of a Hugging Face folder: text, chat, generation.

A workdir keeps these files of the folder that its weights began with, so that
the folder may be moved, and `export` writes them out again:

  WORKDIR/hf/
    config.json, generation_config.json        ids of special tokens, sampling
    tokenizer.json, tokenizer_config.json, ...
    chat_template.jinja, ...
    manifest.json                              their checksums
"""

import dataclasses
import json
import shutil
from typing import Any

from etils import epath

from moejax.convert import folder
from moejax.core import errors, files
from moejax.data.vocab import Vocab

NAME = 'hf'
GENERATION = 'generation_config.json'
TOKENIZER, SENTENCEPIECE = 'tokenizer.json', 'tokenizer.model'
SETTINGS, SPECIAL_MAP = 'tokenizer_config.json', 'special_tokens_map.json'
TEMPLATE, TEMPLATES = 'chat_template.jinja', 'additional_chat_templates'
OTHER_TOKENIZERS = ('tiktoken.model', 'tekken.json', 'vocab.json', 'merges.txt')
# Files of tokenizers and chats, exported unchanged.
SPOKEN = (
  TOKENIZER,
  SENTENCEPIECE,
  *OTHER_TOKENIZERS,
  SETTINGS,
  SPECIAL_MAP,
  'added_tokens.json',
  TEMPLATE,
  'chat_template.json',
)
CONFIGS = (folder.CONFIG, GENERATION)
SPECIAL_IDS = ('bos_token_id', 'eos_token_id', 'pad_token_id')


@dataclasses.dataclass(frozen=True)
class Companions:
  """Ids and files that are written beside weights.

  Attributes:
    ids: ids of special tokens, for config.json; None where there is none.
    generation: generation_config.json.
    files: all other files, by their name in the folder.
  """

  ids: dict[str, Any]
  generation: dict[str, Any]
  files: dict[str, epath.Path]


def of_vocab(vocab: Vocab) -> Companions:
  """Companions of a model that moejax has trained from the beginning.

  There is no id of padding: transformers would take the first token of every
  text for padding where both are id 0.
  """
  start = vocab.start
  ids = {
    'bos_token_id': start[-1] if start else None,
    'eos_token_id': vocab.eos_id if vocab.eos_id >= 0 else None,
    'pad_token_id': None,
  }
  return Companions(ids, dict(ids), {})


def of_folder(place: epath.Path, vocab: Vocab) -> Companions:
  """Companions of a model whose tokenizer came with a folder.

  Args:
    place: the folder, or what a workdir keeps of it.
    vocab: vocabulary of the run.
  """
  config, generation = read(place / folder.CONFIG), read(place / GENERATION)
  own = of_vocab(vocab).ids
  ids = {
    key: next((x[key] for x in (config, generation) if key in x), own[key])
    for key in SPECIAL_IDS
  }
  return Companions(
    ids,
    generation or dict(ids),
    {name: place / name for name in names(place) if name not in CONFIGS},
  )


def names(place: epath.Path) -> list[str]:
  """The files of a folder that this is about."""
  files = [n for n in (*CONFIGS, *SPOKEN) if (place / n).is_file()]
  more = place / TEMPLATES
  if more.is_dir():
    files += sorted(
      f'{TEMPLATES}/{path.name}'
      for path in more.iterdir()
      if path.name.endswith('.jinja')
    )
  return files


def end_ids(place: epath.Path | None, vocab: Vocab) -> list[int]:
  """All ids that end a text: of the vocabulary, and of what a folder says."""
  found = [vocab.eos_id] if vocab.eos_id >= 0 else []
  if place is None:
    return found
  for name in (GENERATION, folder.CONFIG):
    ids = read(place / name).get('eos_token_id')
    if ids is not None:
      more = ids if isinstance(ids, list) else [ids]
      return [*found, *(i for i in more if i not in found)]
  return found


def read(path: epath.Path) -> dict[str, Any]:
  """A JSON object; an empty one where there is no file.

  Raises:
    InputError: the file holds no JSON object.
  """
  if not path.is_file():
    return {}
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except ValueError as e:
    raise errors.InputError(f'{path} is not JSON: {e}') from None
  if not isinstance(content, dict):
    raise errors.InputError(f'{path} must be a JSON object')
  return content


def keep(sources: dict[str, epath.Path], target: epath.Path) -> None:
  """Copies files into a new folder that is whole or absent, with checksums.

  Args:
    sources: files by their name below the folder.
    target: the folder; one that is there is replaced.
  """
  local = files.is_local(target)
  # An object store has no rename: there the manifest says that it is whole.
  part = target.with_name(target.name + '.part') if local else target
  if part.exists():
    part.rmtree()
  part.mkdir(parents=True, exist_ok=True)
  for name, source in sources.items():
    path = part / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(source.read_bytes())
  files.write_manifest(part)
  if local:
    if target.exists():
      shutil.rmtree(target)
    part.rename(target)
    files.sync_folder(target.parent)


def check(place: epath.Path) -> None:
  """Raises InputError if a file of a kept folder is not as it was written."""
  if not (place / files.MANIFEST).exists():
    return  # of a workdir that is older than manifests of these
  damage = files.damage(place)
  if damage is not None:
    raise errors.InputError(
      f'{place} is damaged: {damage}; put that file back as it was'
    )


def tokenizer_file(place: epath.Path) -> epath.Path | None:
  """The tokenizer of a folder; None if there is none that moejax reads."""
  candidates = (place / name for name in (TOKENIZER, SENTENCEPIECE))
  return next((path for path in candidates if path.is_file()), None)
