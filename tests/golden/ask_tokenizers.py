"""What transformers makes of folders with tokenizers, as JSON.

.venv-hf/bin/python tests/golden/ask_tokenizers.py FOLDER < TEXTS.json
"""

import json
import pathlib
import sys

import transformers

KEYS = 'bos_token_id', 'eos_token_id', 'pad_token_id'


def ids(folder):
  """Of special tokens, as the classes of configs have them in the end."""
  kinds = transformers.AutoConfig, transformers.GenerationConfig
  found = [kind.from_pretrained(str(folder)) for kind in kinds]
  return {'special': [[getattr(one, key) for key in KEYS] for one in found]}


def about(folder, texts):
  if not (folder / 'tokenizer_config.json').exists():
    return ids(folder)
  found = transformers.AutoTokenizer.from_pretrained(str(folder))
  said = {
    'ids': [found(text)['input_ids'] for text in texts],
    # Without what is put first, special tokens in the text as themselves.
    'plain': [
      found(text, add_special_tokens=False)['input_ids'] for text in texts
    ],
    'eos': found.eos_token_id,
    'class': type(found).__name__,
  }
  if found.chat_template is not None:
    said['chat'] = found.apply_chat_template(
      [{'role': 'user', 'content': ' the cat? '}],
      add_generation_prompt=True,
      tokenize=False,
    )
  return said


def main():
  root = pathlib.Path(sys.argv[1])
  texts = json.load(sys.stdin)
  folders = sorted(path for path in root.iterdir() if path.is_dir())
  json.dump({path.name: about(path, texts) for path in folders}, sys.stdout)


if __name__ == '__main__':
  main()
