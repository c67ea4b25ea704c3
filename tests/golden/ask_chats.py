"""Prints what transformers makes of conversations: ids, and what is answered.

  python tests/golden/ask_chats.py FOLDER < CONVERSATIONS.json

FOLDER has a folder of each tokenizer. The output is JSON: by the folder's name,
of each conversation its ids and its mask of answers.
"""

import json
import pathlib
import sys

import transformers


def main():
  conversations = json.load(sys.stdin)
  said = {}
  for place in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(place))
    said[place.name] = []
    for conversation in conversations:
      encoded = tokenizer.apply_chat_template(
        conversation,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
      )
      masks = encoded['assistant_masks']
      said[place.name].append({'ids': encoded['input_ids'], 'mask': masks})
  json.dump(said, sys.stdout)


if __name__ == '__main__':
  main()
