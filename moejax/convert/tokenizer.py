"""The vocabulary of a model that comes with a tokenizer, or without."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from moejax.convert import companions, folder
from moejax.core import errors
from moejax.data.vocab import HfTokenizer, Ids, SentencePiece, Vocab

# Classes of transformers that build a tokenizer anew out of words and merges of
# tokenizer.json, with no start token whatever its post-processor says (5.24).
WITHOUT_START = ('GPTNeoXTokenizer',)
# Class where tokenizer_config.json names none.
CLASSES = {'olmoe': 'GPTNeoXTokenizer', 'gpt_neox': 'GPTNeoXTokenizer'}


def vocab(path: epath.PathLike, vocab_size: int) -> Vocab:
  """What `data.vocab` is for the model in a folder.

  Texts begin as with transformers: by the post-processor of tokenizer.json, or,
  where there is a SentencePiece model alone, by `add_bos_token` in
  tokenizer_config.json, which is false if it is not there. Ids are those of the
  file. Without a tokenizer it is `Ids`.

  Args:
    path: the folder.
    vocab_size: vocabulary size of the model.

  Raises:
    InputError: the tokenizer cannot be read, or has more ids than the model.
  """
  place = epath.Path(path).expanduser()
  file = companions.tokenizer_file(place)
  if file is None:
    return _ids(place, vocab_size)
  found = _OF[file.name](place, file)
  if found.size > vocab_size:
    raise errors.InputError(
      f'{file} has {found.size} ids, but the model of its config.json has '
      f'vocab_size={vocab_size}: it is the tokenizer of another model'
    )
  return found


def _fast(place: epath.Path, file: epath.Path) -> HfTokenizer:
  make = functools.partial(
    HfTokenizer,
    path=str(file.resolve()),
    eos_token=_token(place, 'eos'),
    shift=0,
  )
  return make(start_token=_prefix(make(), place))


def _prefix(found: HfTokenizer, place: epath.Path) -> str:
  theirs = companions.read(place / folder.CONFIG).get('model_type', '')
  named = companions.read(place / companions.SETTINGS).get('tokenizer_class')
  name = (named or CLASSES.get(theirs, '')).removesuffix('Fast')
  return '' if name in WITHOUT_START else found.prefix()


def _sentencepiece(place: epath.Path, file: epath.Path) -> SentencePiece:
  settings = companions.read(place / companions.SETTINGS)
  return SentencePiece(
    path=str(file.resolve()),
    shift=0,
    eos_token=_token(place, 'eos'),
    start_token=_token(place, 'bos') or '<s>'
    if settings.get('add_bos_token', False)
    else '',
  )


# How each kind of file is read.
_OF: Mapping[str, Callable[[epath.Path, epath.Path], Vocab]] = {
  companions.TOKENIZER: _fast,
  companions.SENTENCEPIECE: _sentencepiece,
}


def _ids(place: epath.Path, vocab_size: int) -> Ids:
  config = companions.read(place / folder.CONFIG)

  def one(kind: str) -> int:
    found = config.get(f'{kind}_token_id')
    found = found[0] if isinstance(found, list) and found else found
    return found if isinstance(found, int) and 0 <= found < vocab_size else -1

  return Ids(size=vocab_size, eos_id=one('eos'), start_id=one('bos'))


def lacking(path: epath.PathLike) -> str:
  """Why a folder has no vocabulary, in a few words; '' if it has one."""
  place = epath.Path(path).expanduser()
  if companions.tokenizer_file(place) is not None:
    return ''
  others = [n for n in companions.OTHER_TOKENIZERS if (place / n).is_file()]
  if not others:
    return 'The folder has no tokenizer'
  return (
    f'The folder has {" and ".join(others)}, but no tokenizer.json or '
    'tokenizer.model, which moejax reads (AutoTokenizer.from_pretrained(...)'
    '.save_pretrained(...) of transformers makes a tokenizer.json)'
  )


def special_tokens(place: epath.Path) -> dict[str, str]:
  """The texts of `bos_token`, `eos_token` and others that a folder names."""
  tokens = {}
  # As transformers does: the older file counts where the newer lists no tokens.
  settings = companions.read(place / companions.SETTINGS)
  older = companions.read(place / companions.SPECIAL_MAP)
  both = (settings, older if 'added_tokens_decoder' not in settings else {})
  for values in both:
    for key, value in values.items():
      text = value.get('content') if isinstance(value, dict) else value
      if key.endswith('_token') and isinstance(text, str):
        tokens[key] = text
  return tokens


def _token(place: epath.Path, kind: str) -> str:
  """The text of a special token: by its name, or by its id in config.json."""
  named = special_tokens(place).get(f'{kind}_token')
  if named:
    return named
  wanted = companions.read(place / folder.CONFIG).get(f'{kind}_token_id')
  wanted = wanted[0] if isinstance(wanted, list) and wanted else wanted
  tokenizer: dict[str, Any] = companions.read(place / companions.TOKENIZER)
  for token in tokenizer.get('added_tokens', ()):
    if token.get('id') == wanted:
      return token['content']
  return ''
