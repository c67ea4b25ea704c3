"""Ids and masks of conversations are those of transformers, asked live.

MOEJAX_HF_PYTHON=... python -m pytest -m hf tests/data/chat
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from helpers import spoken

from moejax.convert import tokenizer
from moejax.data import features
from moejax.data.chat import Chat, templates, tokens
from moejax.data.chat.messages import Conversation

GOLDEN = pathlib.Path(__file__).parents[2] / 'golden'
PYTHON = os.environ.get('MOEJAX_HF_PYTHON', sys.executable)
CHATS = [
  [('user', 'the cat'), ('assistant', 'on the mat')],
  [
    ('system', 'Be brief.'),
    ('user', ' 12\n'),
    ('assistant', '\n\nthe 1212 é漢🙂'),
    ('user', '<|im_end|> tabs\t'),
    ('assistant', "don't  cat"),
  ],
]
PAIRS = [
  (f, t) for f in ('qwen', 'llama_3', 'gpt_2') for t in templates.BUILT_IN
]


@pytest.mark.hf
def test_ids_and_masks_are_those_of_transformers(tmp_path):
  conversations = [
    [{'role': role, 'content': text} for role, text in chat] for chat in CHATS
  ]
  for family, name in PAIRS:
    place = tmp_path / f'{family}-{name}'
    spoken.FAMILIES[family](place)
    text = templates.BUILT_IN[name].read_text()
    (place / 'chat_template.jinja').write_text(text)
  done = subprocess.run(
    [PYTHON, str(GOLDEN / 'ask_chats.py'), str(tmp_path)],
    input=json.dumps(conversations),
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
    env={**os.environ, 'HF_HUB_OFFLINE': '1', 'PYTHONPATH': ''},
  )
  assert done.returncode == 0, done.stderr[-2000:]
  theirs = json.loads(done.stdout)
  for family, name in PAIRS:
    ours = tokenizer.vocab(tmp_path / f'{family}-{name}', 512)
    own = tokens.ChatVocab(ours, Chat(), length=1000)
    encoded = own.encode_conversations([
      Conversation('', tuple(c)) for c in conversations
    ])
    for found, want in zip(encoded, theirs[f'{family}-{name}'], strict=True):
      stored_T = found.ids_T
      skipped = len(own.start) == 0
      end = len(stored_T) + skipped
      np.testing.assert_array_equal(
        features.ids(stored_T), want['ids'][skipped:end], f'{family} {name}'
      )
      np.testing.assert_array_equal(
        stored_T >= 0, np.array(want['mask'][skipped:end]) == 1
      )
      # Behind the last answer there is at most white space of the template.
      assert not any(want['mask'][end:])
