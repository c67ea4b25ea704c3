"""The companions of the weights in a Hugging Face folder.

They are its tokenizer, its chat template and its generation settings. A workdir
whose weights came from such a folder keeps a copy of them, so that the folder
may be moved or deleted, and `export` writes them out again:

  WORKDIR/hf/
    config.json, generation_config.json        ids of special tokens, sampling
    tokenizer.json, tokenizer_config.json, ...
    chat_template.jinja, ...
    manifest.json                              their checksums
"""

import dataclasses
import shutil
from collections.abc import Mapping
from typing import Any

from etils import epath

from moejax.convert import folder, own_tokenizer
from moejax.core import errors, files, manifest
from moejax.data.chat import templates
from moejax.data.vocab import Vocab

NAME = 'hf'
GENERATION = 'generation_config.json'
TOKENIZER, SENTENCEPIECE = own_tokenizer.HF, own_tokenizer.SENTENCEPIECE
SETTINGS, SPECIAL_MAP = templates.SETTINGS, templates.SPECIAL_MAP
TEMPLATE, TEMPLATES = templates.FILE, 'additional_chat_templates'
OTHER_TOKENIZERS = ('tiktoken.model', 'tekken.json', 'vocab.json', 'merges.txt')
# Files of tokenizers and chat templates, which are exported unchanged.
TEXT_FILES = (
  TOKENIZER,
  SENTENCEPIECE,
  *OTHER_TOKENIZERS,
  SETTINGS,
  SPECIAL_MAP,
  'added_tokens.json',
  TEMPLATE,
  templates.OLDER,
)
CONFIGS = (folder.CONFIG, GENERATION)
SPECIAL_IDS = ('bos_token_id', 'eos_token_id', 'pad_token_id')


@dataclasses.dataclass(frozen=True)
class Companions:
  """The ids and files that `save.write` writes beside weights.

  Attributes:
    ids: ids of special tokens by their key in config.json (SPECIAL_IDS); None
      for a token that the model does not have.
    generation: content of generation_config.json.
    files: all other files by their name in the folder: paths of files to copy,
      or the bytes of a file.
  """

  ids: dict[str, Any]
  generation: dict[str, Any]
  files: own_tokenizer.Files


def of_vocab(vocab: Vocab) -> Companions:
  """Companions of a model whose vocabulary came with no folder.

  They have no padding id. In most vocabularies of moejax id 0 is both padding
  and the first token of every text, and transformers would take that token for
  padding.
  """
  ids = _ids(vocab)
  return Companions(ids, dict(ids), own_tokenizer.files(vocab))


def _ids(vocab: Vocab) -> dict[str, Any]:
  start = vocab.start
  return {
    'bos_token_id': start[-1] if start else None,
    'eos_token_id': vocab.eos_id if vocab.eos_id >= 0 else None,
    'pad_token_id': None,
  }


def of_folder(place: epath.Path, vocab: Vocab) -> Companions:
  """Companions of a model whose tokenizer came with a folder.

  Args:
    place: the folder, or the copy that a workdir keeps of its files.
    vocab: vocabulary of the run, whose ids stand in where the folder has none.
  """
  config, generation = read(place / folder.CONFIG), read(place / GENERATION)
  own = _ids(vocab)
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
  """The names of the companion files that a folder has."""
  files = [n for n in (*CONFIGS, *TEXT_FILES) if (place / n).is_file()]
  more = place / TEMPLATES
  if more.is_dir():
    files += sorted(
      f'{TEMPLATES}/{path.name}'
      for path in more.iterdir()
      if path.name.endswith('.jinja')
    )
  return files


def end_ids(place: epath.Path | None, vocab: Vocab) -> list[int]:
  """All ids that end a generated text.

  They are the EOS of the vocabulary, and the `eos_token_id` (one id or a list)
  of generation_config.json or, if that has none, of config.json.

  Args:
    place: the folder; None for a model without one.
    vocab: vocabulary of the run.
  """
  own = [vocab.eos_id] if vocab.eos_id >= 0 else []
  if place is None:
    return own
  for name in (GENERATION, folder.CONFIG):
    ids = read(place / name).get('eos_token_id')
    if ids is not None:
      listed = ids if isinstance(ids, list) else [ids]
      return [*own, *(i for i in listed if i not in own)]
  return own


# The JSON object of a file; an empty one if the file does not exist.
read = templates.read_json


def content(source: epath.Path | bytes) -> bytes:
  """The bytes of a companion file, which may be given as such."""
  return source if isinstance(source, bytes) else source.read_bytes()


def keep(sources: Mapping[str, epath.Path | bytes], target: epath.Path) -> None:
  """Copies files into a new folder that is whole or absent, with checksums.

  Args:
    sources: paths of the files to copy, by their name in the new folder; or
      the bytes of a file.
    target: the new folder; an existing one is replaced.
  """
  local = files.is_local(target)
  # An object store cannot rename a folder. There the manifest, which is written
  # last, shows that the folder is whole.
  partial = target.with_name(target.name + '.part') if local else target
  if partial.exists():
    partial.rmtree()
  partial.mkdir(parents=True, exist_ok=True)
  for name, source in sources.items():
    path = partial / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content(source))
  manifest.write_manifest(partial)
  if local:
    if target.exists():
      shutil.rmtree(target)
    partial.rename(target)
    files.sync_folder(target.parent)


def check(place: epath.Path) -> None:
  """Compares the files of a kept folder with its manifest.

  Raises:
    InputError: a file is missing or differs from the one that was written.
  """
  if not (place / manifest.MANIFEST).exists():
    return  # earlier versions wrote no manifest here
  damage = manifest.damage(place)
  if damage is not None:
    raise errors.InputError(
      f'{place} is damaged: {damage}; put that file back as it was'
    )


def tokenizer_file(place: epath.Path) -> epath.Path | None:
  """The tokenizer file of a folder; None if it has none that moejax reads."""
  candidates = (place / name for name in (TOKENIZER, SENTENCEPIECE))
  return next((path for path in candidates if path.is_file()), None)
