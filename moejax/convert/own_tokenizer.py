"""The tokenizer files of a model whose vocabulary came with no folder.

  tokenizer.model or tokenizer.json   the file of the vocabulary
  tokenizer_config.json               its start and end, and a general class

transformers reads them, and so does moejax, with the same ids. The start token
of a vocabulary whose id 0 is padding is that padding.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from moejax.data import seqio_bridge
from moejax.data.chat import templates
from moejax.data.vocab import (
  SHIPPED,
  Bytes,
  HfTokenizer,
  Ids,
  SentencePiece,
  Vocab,
)

HF, SENTENCEPIECE = 'tokenizer.json', 'tokenizer.model'
# It takes either file as it is; classes of families change parts
# (docs/models.md).
CLASS = 'PreTrainedTokenizerFast'

Files = dict[str, epath.Path | bytes]


def files(vocab: Vocab) -> Files:
  """The files by their name, each a path or its bytes.

  Args:
    vocab: vocabulary of a run.

  Returns:
    The files; {} if there is no file of these ids (`lacking`).
  """
  return _WRITERS.get(type(vocab), _none)(vocab)


def lacking(vocab: Vocab) -> str:
  """Why a vocabulary has no files, in a clause."""
  if isinstance(vocab, Ids):
    return 'the model came without one'
  return (
    'the ids of data.vocab are those of its file plus one, so that id 0 is '
    'padding, which transformers cannot do'
  )


def _none(vocab: Any) -> Files:
  del vocab
  return {}


def _sentencepiece(vocab: SentencePiece) -> Files:
  named = vocab.unshifted()
  if named is None:
    return {}
  return {
    SENTENCEPIECE: epath.Path(vocab.path or SHIPPED).expanduser(),
    templates.SETTINGS: _settings(named.start_token, named.eos_token),
  }


def _hf_tokenizer(vocab: HfTokenizer) -> Files:
  if vocab.shift:
    return {}
  return {
    HF: epath.Path(vocab.path).expanduser(),
    templates.SETTINGS: _settings(vocab.start_token, vocab.eos_token),
  }


def _bytes(vocab: Bytes) -> Files:
  """A tokenizer.json of bytes: no merges, and a word for each byte."""
  with seqio_bridge.needed(
    'an export of bytes', 'tokenizers', 'export a model of another data.vocab'
  ):
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors

  special = ['<pad>', vocab.eos_text(), '<unk>']
  words = [*special, *map(_letter, range(256))]
  ids = {word: i for i, word in enumerate(words)}
  made = tokenizers.Tokenizer(models.BPE(ids, []))
  made.add_special_tokens(special)
  made.pre_tokenizer = pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  made.decoder = decoders.ByteLevel()
  made.post_processor = processors.TemplateProcessing(
    single='<pad> $A', pair='<pad> $A $B', special_tokens=[('<pad>', 0)]
  )
  return {
    HF: made.to_str(pretty=True).encode(),
    templates.SETTINGS: _settings('<pad>', vocab.eos_text()),
  }


def _letter(byte: int) -> str:
  """The letter that stands for a byte in byte-level tokenizers.

  Source: GPT-2 (Radford et al., 2019), whose printable bytes stand for
  themselves, and the others, in order, are letters from U+0100 on.
  """
  shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
  if byte in shown:
    return chr(byte)
  return chr(256 + sum(other not in shown for other in range(byte)))


def _settings(start: str, end: str) -> bytes:
  """The content of tokenizer_config.json."""
  settings: dict[str, Any] = {
    'tokenizer_class': CLASS,
    'add_bos_token': bool(start),
    'add_eos_token': False,
    'clean_up_tokenization_spaces': False,
    'eos_token': end,
  }
  if start:
    settings['bos_token'] = start
  return (json.dumps(settings, indent=2) + '\n').encode()


# By the class of a vocabulary: its files.
_WRITERS: Mapping[type, Callable[[Any], Files]] = {
  Bytes: _bytes,
  HfTokenizer: _hf_tokenizer,
  SentencePiece: _sentencepiece,
}
