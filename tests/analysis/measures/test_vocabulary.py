"""Tokens that are typical of an expert, by hand."""

from helpers import traced

from moejax.analysis.measures.vocabulary import vocabulary

# Token 5 chose expert 0 twice and 1 twice; token 6 chose 1 always; token 7
# chose 2 once.
TRACES = traced.one(
  [[[0]], [[0]], [[1]], [[1]], [[1]], [[1]], [[1]], [[2]]],
  token_T=[5, 5, 5, 5, 6, 6, 6, 7],
)


def test_shares_over_the_rate_of_the_expert():
  rows = vocabulary(TRACES, floor=1, lift=1.5)
  # Expert 0: 2 of 8 occurrences; 2 of 4 of token 5.
  assert rows['layer 0, expert 0'] == {
    'layer': 0,
    'expert': 0,
    'rate': 2 / 8,
    'types': 1,
    'tokens': [[5, 2, 0.5, 2.0]],
  }
  # Expert 1: 5 of 8; token 6 has 3 of 3, token 5 has 2 of 4, below the rate.
  assert rows['layer 0, expert 1']['tokens'] == [[6, 3, 1.0, 1.6]]
  assert rows['layer 0, expert 2']['tokens'] == [[7, 1, 1.0, 8.0]]
  assert rows['layer 0, expert 3']['tokens'] == []
  assert rows['layer 0, expert 3']['rate'] == 0


def test_floor_and_lift_and_number():
  rows = vocabulary(TRACES, floor=2, lift=0.5)
  assert rows['layer 0, expert 2']['tokens'] == []
  assert [x[0] for x in rows['layer 0, expert 1']['tokens']] == [6, 5]
  # Token 5 occurs four times, and chose neither expert three times.
  rows = vocabulary(TRACES, floor=3, lift=0.5)
  assert rows['layer 0, expert 0']['tokens'] == []
  assert [x[0] for x in rows['layer 0, expert 1']['tokens']] == [6]
  row = vocabulary(TRACES, floor=2, lift=0.5, num=1)['layer 0, expert 1']
  assert (len(row['tokens']), row['types']) == (1, 2)


def test_tokens_without_an_expert_do_not_count():
  rows = vocabulary(
    traced.one([[[0]], [[-1]], [[1]]], token_T=[5, 5, 6]), floor=1
  )
  assert rows['layer 0, expert 0']['tokens'] == [[5, 1, 1.0, 2.0]]
