"""Shares of a domain's tokens, by hand."""

import pytest
from helpers import traced

from moejax.analysis.measures.domain_specialisation import domain_specialisation


def test_shares_of_the_tokens_of_a_domain():
  rows = domain_specialisation(
    traced.one(
      [[[0, 1]], [[0, 2]], [[0, 1]], [[3, 1]], [[-1, -1]]],
      domains=('code', 'news', 'nothing'),
      domain_T=[0, 0, 0, 1, 1],
      document_T=[0, 0, 1, 2, 3],
      layers=(2,),
    )
  )
  code = rows['layer 2, code']
  # Three tokens: all chose 0, two chose 1, one chose 2.
  assert code['share'] == [1, round(2 / 3, 5), round(1 / 3, 5), 0]
  assert code['top1'] == [1, 0, 0, 0]
  assert (code['largest'], code['expert']) == (1, 0)
  assert code['uniform'] == pytest.approx(2 / 4)
  assert (code['tokens'], code['domain'], code['layer']) == (3, 'code', 2)
  # Document 0 has shares 1, 1/2, 1/2 and document 1 has 1, 1, 0.
  assert code['share_low'] == [1, 0.5, 0, 0]
  assert code['share_high'] == [1, 1, 0.5, 0]
  # Of two tokens, one has no expert.
  assert rows['layer 2, news']['share'] == [0, 0.5, 0, 0.5]
  nothing = rows['layer 2, nothing']
  assert (nothing['tokens'], nothing['largest']) == (0, None)
  assert nothing['share'] == [None] * 4
