"""Folders with tiny tokenizers, made as the released one of each family is.

Vocabularies are written down, not learned, so that ids are the same with every
version of the libraries.
"""

import json

import sentencepiece
import tokenizers
from tokenizers import (
  AddedToken,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
# Words of the byte-level ones, each with how it is put together.
MERGES = (
  ('t', 'h'), ('th', 'e'), ('Ġ', 'the'), ('c', 'a'), ('ca', 't'),
  ('Ġ', 'cat'), ('o', 'n'), ('Ġ', 'on'), ('Ġ', 'm'), ('1', '2'),
)  # fmt: skip
QWEN_PATTERN = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
TEXTS = [
  'the cat on the mat',
  '  two  spaces, and\n\n\ttabs ',
  '',
  "é漢字🙂 12123 don't",
  'cat<s></s><bos>x<|endoftext|>y<|im_start|>',
]
CHAT = (
  "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'robot' %}"
  "{{ raise_exception('no robots') }}{% endif %}"
  "<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n"
  '{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n'
  '{% endif %}'
)


def _byte_level(special, split=None, prefix=(), suffix=(), nfc=False):
  """A BPE over bytes; `prefix` is what its post-processor puts first."""
  words = [*BYTES, *(a + b for a, b in MERGES)]
  tokenizer = tokenizers.Tokenizer(
    models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[*MERGES])
  )
  if nfc:
    tokenizer.normalizer = normalizers.NFC()
  level = pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=split is None
  )
  if split is not None:
    pattern = tokenizers.Regex(split)
    cut = pre_tokenizers.Split(pattern, behavior='isolated', invert=False)
    level = pre_tokenizers.Sequence([cut, level])
  tokenizer.pre_tokenizer = level
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens([
    AddedToken(t, normalized=False) for t in special
  ])
  tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
  if prefix or suffix:
    tokenizer.post_processor = processors.Sequence([
      processors.ByteLevel(trim_offsets=False),
      _template(tokenizer, prefix, suffix),
    ])
  return tokenizer


def _template(tokenizer, prefix, suffix=()):
  words = [*prefix, '$A', *suffix]
  return processors.TemplateProcessing(
    single=words,
    pair=[*words, '$B'],
    special_tokens=[(t, tokenizer.token_to_id(t)) for t in (*prefix, *suffix)],
  )


def _pieces():
  """Words of the SentencePiece-like ones."""
  special = ['<unk>', '<s>', '</s>']
  single = [f'<0x{i:02X}>' for i in range(256)]
  words = ['▁', *'thecaonmsxy,dw', 'th', 'the', '▁the', 'ca', 'cat', '▁cat']
  return [*special, *single, *words]


def llama(path):
  """As Llama 2 and Mixtral: BPE over characters, bytes behind them."""
  merges = [('t', 'h'), ('th', 'e'), ('▁', 'the'), ('c', 'a'), ('ca', 't'),
            ('▁', 'cat')]  # fmt: skip
  tokenizer = tokenizers.Tokenizer(
    models.BPE(
      vocab={w: i for i, w in enumerate(_pieces())},
      merges=merges,
      unk_token='<unk>',
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  tokenizer.normalizer = normalizers.Sequence([
    normalizers.Prepend('▁'),
    normalizers.Replace(' ', '▁'),
  ])
  tokenizer.decoder = decoders.Sequence([
    decoders.Replace('▁', ' '),
    decoders.ByteFallback(),
    decoders.Fuse(),
    decoders.Strip(' ', 1, 0),
  ])
  tokenizer.add_special_tokens(['<unk>', '<s>', '</s>'])
  tokenizer.post_processor = _template(tokenizer, ['<s>'])
  tokens = {'bos_token': '<s>', 'eos_token': '</s>', 'unk_token': '<unk>'}
  settings = {**tokens, 'add_bos_token': True, 'add_eos_token': False}
  _write(path, tokenizer, 'mixtral', settings, 'LlamaTokenizer')


def llama_3(path):
  special = ['<|begin_of_text|>', '<|end_of_text|>', '<|eot_id|>']
  tokenizer = _byte_level(special, split=QWEN_PATTERN, prefix=special[:1])
  settings = {'bos_token': special[0], 'eos_token': special[2]}
  _write(path, tokenizer, 'llama', settings, 'PreTrainedTokenizerFast')


def gpt_2(path):
  """bos, eos and unk are one token; none is put first."""
  end = '<|endoftext|>'
  settings = {'bos_token': end, 'eos_token': end, 'unk_token': end}
  _write(path, _byte_level([end]), 'olmo', settings, 'GPT2Tokenizer')


def qwen(path):
  """config.json has a bos_token_id, and the tokenizer puts none first."""
  special = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
  tokenizer = _byte_level(special, split=QWEN_PATTERN, nfc=True)
  settings = {
    'bos_token': None,
    'eos_token': '<|im_end|>',
    'pad_token': '<|endoftext|>',
    'add_prefix_space': False,
    'chat_template': CHAT,
  }
  ids = {
    'bos_token_id': tokenizer.token_to_id('<|endoftext|>'),
    'eos_token_id': tokenizer.token_to_id('<|im_end|>'),
  }
  _write(path, tokenizer, 'qwen2_moe', settings, 'Qwen2Tokenizer', ids)


def gpt_oss(path):
  """Has a bos_token, says nothing of add_bos_token, and puts none first."""
  special = ['<|startoftext|>', '<|endoftext|>', '<|return|>']
  tokenizer = _byte_level(special, split=QWEN_PATTERN)
  settings = {'bos_token': special[0], 'eos_token': special[2]}
  ids = {'bos_token_id': tokenizer.token_to_id(special[0])}
  _write(path, tokenizer, 'gpt_oss', settings, 'PreTrainedTokenizerFast', ids)


def deepseek(path):
  """Named LlamaTokenizerFast, though it is one of bytes."""
  begin, end = '<｜begin▁of▁sentence｜>', '<｜end▁of▁sentence｜>'
  tokenizer = _byte_level([begin, end], split=QWEN_PATTERN, prefix=[begin])
  as_token = lambda text: {'__type': 'AddedToken', 'content': text}
  settings = {
    'bos_token': as_token(begin) | _PLAIN,
    'eos_token': as_token(end) | _PLAIN,
    'add_bos_token': True,
    'legacy': True,
  }
  _write(path, tokenizer, 'deepseek_v3', settings, 'LlamaTokenizerFast')


_PLAIN = {
  'lstrip': False,
  'rstrip': False,
  'normalized': True,
  'single_word': False,
}


def said_and_not_done(path):
  """add_bos_token is true, and the post-processor puts none first."""
  tokenizer = _byte_level(['<|endoftext|>'])
  end = '<|endoftext|>'
  settings = {'bos_token': end, 'eos_token': end, 'add_bos_token': True}
  _write(path, tokenizer, 'llama', settings, 'PreTrainedTokenizerFast')


def done_and_not_said(path):
  """add_bos_token is false, and the post-processor puts one first."""
  tokenizer = _byte_level(['<|endoftext|>', '<bos>'], prefix=['<bos>'])
  settings = {
    'bos_token': '<bos>',
    'eos_token': '<|endoftext|>',
    'add_bos_token': False,
  }
  _write(path, tokenizer, 'llama', settings, 'PreTrainedTokenizerFast')


def olmoe(path):
  """Its class in transformers has a post-processor of its own: no start."""
  end = '<|endoftext|>'
  tokenizer = _byte_level([end], nfc=True, prefix=[end])
  settings = {'bos_token': end, 'eos_token': end, 'unk_token': end}
  _write(path, tokenizer, 'olmoe', settings, 'GPTNeoXTokenizer')


def glm(path):
  """Begins with two special tokens."""
  special = ['<|endoftext|>', '[gMASK]', '<sop>']
  tokenizer = _byte_level(special, split=QWEN_PATTERN, prefix=special[1:])
  settings = {'eos_token': special[0], 'pad_token': special[0]}
  _write(path, tokenizer, 'glm4_moe', settings, 'PreTrainedTokenizerFast')


def unigram(path):
  """As Gemma's and T5's SentencePiece models: a unigram language model."""
  special = [('<pad>', 0.0), ('<eos>', 0.0), ('<bos>', 0.0), ('<unk>', 0.0)]
  words = [('▁the', -2.0), ('▁cat', -3.0), ('▁', -4.0), ('▁on', -3.0)]
  words += [(c, -5.0) for c in 'thecaonmsxyp,dw<>/|_1234']
  tokenizer = tokenizers.Tokenizer(
    models.Unigram([*special, *words], unk_id=3, byte_fallback=False)
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme='first')
  tokenizer.decoder = decoders.Metaspace(prepend_scheme='first')
  tokenizer.add_special_tokens([name for name, _ in special])
  tokenizer.post_processor = _template(tokenizer, ['<bos>'])
  settings = {
    'bos_token': '<bos>',
    'eos_token': '<eos>',
    'pad_token': '<pad>',
    'unk_token': '<unk>',
  }
  _write(path, tokenizer, 'llama', settings, 'PreTrainedTokenizerFast')


def wordpiece(path):
  """As BERT's: something is put first, and last."""
  words = ['[UNK]', '[CLS]', '[SEP]', 'the', 'cat', 'on', 'm', '##at', ',']
  tokenizer = tokenizers.Tokenizer(
    models.WordPiece(
      vocab={w: i for i, w in enumerate(words)}, unk_token='[UNK]'
    )
  )
  tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = decoders.WordPiece()
  tokenizer.add_special_tokens(['[UNK]', '[CLS]', '[SEP]'])
  tokenizer.post_processor = _template(tokenizer, ['[CLS]'], ['[SEP]'])
  settings = {'eos_token': '[SEP]', 'bos_token': '[CLS]'}
  _write(path, tokenizer, 'llama', settings, 'PreTrainedTokenizerFast')


# By name: what makes the folder.
FAMILIES = {
  make.__name__: make
  for make in (
    llama, llama_3, gpt_2, qwen, gpt_oss, deepseek, said_and_not_done,
    done_and_not_said, olmoe, glm, unigram, wordpiece,
  )
}  # fmt: skip


def sentencepiece_only(path, **settings):
  """As an old Llama folder: tokenizer.model, and no tokenizer.json."""
  path.mkdir(parents=True, exist_ok=True)
  with (path / 'tokenizer.model').open('wb') as out:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(['the cat sat on the mat', 'a cat, the mat'] * 9),
      model_writer=out,
      model_type='bpe',
      vocab_size=290,
      byte_fallback=True,
      normalization_rule_name='identity',
      remove_extra_whitespaces=False,
      minloglevel=2,
    )
  tokens = {'bos_token': '<s>', 'eos_token': '</s>', 'unk_token': '<unk>'}
  _settings(path, 'llama', {**tokens, **settings}, 'LlamaTokenizer', {})


def _write(path, tokenizer, model_type, settings, name, ids=None):
  path.mkdir(parents=True, exist_ok=True)
  tokenizer.save(str(path / 'tokenizer.json'))
  _settings(path, model_type, settings, name, ids or {})


def _settings(path, model_type, settings, name, ids):
  text = json.dumps({**settings, 'tokenizer_class': name})
  (path / 'tokenizer_config.json').write_text(text)
  config = {'model_type': model_type, 'vocab_size': 512, **ids}
  (path / 'config.json').write_text(json.dumps(config))
