"""Prints the ids with which transformers answers a question, greedily.

  python tests/golden/ask_answer.py FOLDER QUESTION NUMBER

FOLDER is an exported model with its tokenizer and chat template. The output is
JSON: ids of the prompt, and at most NUMBER new ids.
"""

import json
import sys

import torch
import transformers


def main():
  folder, question, number = sys.argv[1:]
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32
  )
  prompt = tokenizer.apply_chat_template(
    [{'role': 'user', 'content': question}],
    add_generation_prompt=True,
    return_dict=True,
    return_tensors='pt',
  )
  out = model.generate(**prompt, do_sample=False, max_new_tokens=int(number))
  size = prompt['input_ids'].shape[1]
  ids = out[0].tolist()
  json.dump({'prompt': ids[:size], 'new': ids[size:]}, sys.stdout)


if __name__ == '__main__':
  main()
