"""Conversations of both schemas, and what is wrong with the others."""

import pytest

from moejax.data.chat import messages

ASKED = {'role': 'user', 'content': 'Hi'}
ANSWERED = {'role': 'assistant', 'content': 'Hello'}


def test_both_schemas_give_the_same_messages():
  ours = messages.parse('a:1', {'messages': [ASKED, ANSWERED]})
  theirs = messages.parse(
    'b:7',
    {
      'id': '1',
      'conversations': [
        {'from': 'human', 'value': 'Hi'},
        {'from': 'gpt', 'value': 'Hello'},
      ],
    },
  )
  assert ours.messages == theirs.messages == (ASKED, ANSWERED)
  assert ours.sha256() == theirs.sha256()
  assert (ours.answers, theirs.where) == ([1], 'b:7')


def test_messages_behind_the_last_answer_are_left_out():
  kept = messages.parse('a:1', {'messages': [ASKED, ANSWERED, ASKED]})
  assert kept.messages == (ASKED, ANSWERED)


def test_parts_of_text_are_joined_and_other_keys_are_kept():
  parts = [{'type': 'text', 'text': 'a'}, {'type': 'text', 'text': 'b'}]
  called = {'role': 'assistant', 'content': None, 'tool_calls': [{'id': 1}]}
  asked = {'role': 'user', 'content': parts, 'name': 'Ann'}
  found = messages.parse('a:1', {'messages': [asked, called]})
  assert found.messages[0] == {'role': 'user', 'content': 'ab', 'name': 'Ann'}
  assert found.messages[1] == {**called, 'content': ''}


@pytest.mark.parametrize(
  ('row', 'problem'),
  [
    ({'text': 'x'}, "no field 'messages' or 'conversations'; has 'text'"),
    ({'messages': []}, "field 'messages' must be a list of messages"),
    ({'messages': 'Hi'}, "field 'messages' must be a list of messages"),
    ({'messages': [ASKED, 'Hello']}, 'message 2 is not a JSON object'),
    ({'messages': [ASKED]}, 'no answer'),
    ({'messages': [ANSWERED, ASKED]}, 'begins with an answer'),
    ({'messages': [{'content': 'Hi'}]}, "message 1 has no 'role'"),
    ({'messages': [{'role': 'user'}]}, "message 1 has no 'content'"),
    (
      {'messages': [ASKED, {'role': 'asistant', 'content': 'Hello'}]},
      "message 2 has the role 'asistant'; known are system",
    ),
    (
      {'conversations': [{'from': 'cat', 'value': 'Miaow'}]},
      "message 1 has the role 'cat'",
    ),
    (
      {'messages': [{'role': 'user', 'content': 3}, ANSWERED]},
      'message 1 holds int, not text',
    ),
    (
      {'messages': [ASKED, {'role': 'assistant', 'content': ' \n'}]},
      'message 2 is an empty answer',
    ),
    (
      {'messages': [{'role': 'user', 'content': 'a\0b'}, ANSWERED]},
      'message 1 has a NUL',
    ),
    (
      {'messages': [{'role': 'user', 'content': '\ud800'}, ANSWERED]},
      'message 1 has half a surrogate pair',
    ),
    (
      {'messages': [{'role': 'user', 'content': [{'type': 'image'}]}]},
      'message 1 has a part that is not text',
    ),
    (
      {'image': 'a.png', 'conversations': [{'from': 'human', 'value': 'Hi'}]},
      'has an image',
    ),
  ],
)
def test_what_cannot_be_used(row, problem):
  with pytest.raises(messages.ProblemError) as e:
    messages.parse('a:1', row)
  assert problem in str(e.value)
  assert '\n' not in str(e.value)
