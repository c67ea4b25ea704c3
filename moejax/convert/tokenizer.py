"""Makes a `data.vocab` of the tokenizer in a Hugging Face folder."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from moejax.convert import companions, folder
from moejax.core import errors
from moejax.data.chat import templates
from moejax.data.vocab import HfTokenizer, Ids, SentencePiece, Vocab

# Classes of transformers (5.24) that rebuild a tokenizer from the words and
# merges of tokenizer.json. They add no start token, whatever the
# post-processor in that file says.
WITHOUT_START = ('GPTNeoXTokenizer',)
# Class of the tokenizer by model_type, if tokenizer_config.json names none.
CLASSES = {'olmoe': 'GPTNeoXTokenizer', 'gpt_neox': 'GPTNeoXTokenizer'}


def vocab(path: epath.PathLike, vocab_size: int) -> Vocab:
  """The vocabulary (`data.vocab`) of the model in a folder.

  Ids are those of the tokenizer's file, without a shift. Whether texts begin
  with a start token is decided as in transformers: by the post-processor of
  tokenizer.json or, if there is only a SentencePiece model, by `add_bos_token`
  in tokenizer_config.json, which is false by default. Without a tokenizer the
  vocabulary is `Ids`.

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
  result = _READERS[file.name](place, file)
  if result.size > vocab_size:
    raise errors.InputError(
      f'{file} has {result.size} ids, but the model of its config.json has '
      f'vocab_size={vocab_size}: it is the tokenizer of another model'
    )
  return result


def _hf_tokenizer(place: epath.Path, file: epath.Path) -> HfTokenizer:
  make = functools.partial(
    HfTokenizer,
    path=str(file.resolve()),
    eos_token=_token(place, 'eos'),
    shift=0,
  )
  return make(start_token=_prefix(make(), place))


def _prefix(tokenizer: HfTokenizer, place: epath.Path) -> str:
  """The special tokens with which a text begins; '' for none."""
  model_type = companions.read(place / folder.CONFIG).get('model_type', '')
  named = companions.read(place / companions.SETTINGS).get('tokenizer_class')
  name = (named or CLASSES.get(model_type, '')).removesuffix('Fast')
  return '' if name in WITHOUT_START else tokenizer.prefix()


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


# By the name of the tokenizer's file: a reader, given the folder and the file.
_READERS: Mapping[str, Callable[[epath.Path, epath.Path], Vocab]] = {
  companions.TOKENIZER: _hf_tokenizer,
  companions.SENTENCEPIECE: _sentencepiece,
}


def _ids(place: epath.Path, vocab_size: int) -> Ids:
  config = companions.read(place / folder.CONFIG)

  def token_id(kind: str) -> int:
    value = config.get(f'{kind}_token_id')
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, int) and 0 <= value < vocab_size else -1

  return Ids(size=vocab_size, eos_id=token_id('eos'), start_id=token_id('bos'))


def lacking(path: epath.PathLike) -> str:
  """Why no tokenizer of a folder can be read, in a clause; '' if one can."""
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


# The texts of `bos_token`, `eos_token` and others that a folder names.
special_tokens = templates.special_tokens


def _token(place: epath.Path, kind: str) -> str:
  """The text of a special token: by its name, or by its id in config.json.

  Args:
    place: the folder.
    kind: 'bos' or 'eos'.

  Returns:
    The text, such as '</s>'; '' if the folder does not tell.
  """
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
