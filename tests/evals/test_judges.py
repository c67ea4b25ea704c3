"""Judges of generated text, against scores worked by hand."""

import itertools

import pytest

from moejax.core.errors import InputError
from moejax.evals import judges
from moejax.evals.benchmark import Prompt


def test_exact_match_compares_with_any_reference_after_normalising():
  judge = judges.exact_match(['The Beatles', 'Fab Four!'], judges.plain)
  assert judge(' the beatles.') == {'exact_match': 1.0}
  assert judge('fab four') == {'exact_match': 1.0}
  # This normalisation keeps articles, and that of SQuAD does not.
  assert judge('Beatles') == {'exact_match': 0.0}
  judge = judges.exact_match(['The Beatles'], judges.squad)
  assert judge('Beatles')['exact_match'] == 1.0
  assert judge('a  Beatles')['exact_match'] == 1.0
  assert judge('theBeatles')['exact_match'] == 0.0


@pytest.mark.parametrize(
  ('text', 'strict', 'last'),
  [
    ('So 3 + 4 = 7.\n#### 7', '7', '7'),
    ('#### 1,234', '1234', '1234'),
    ('It is $1,234.', None, '1234'),
    ('the answer is 18.', None, '18'),
    ('the answer is 8.', None, '8'),
    ('#### 12 apples, not 15', '12', '15'),
    ('-5 or -17', None, '-17'),
    ('none', None, None),
  ],
)
def test_a_number_is_found_strictly_and_flexibly(text, strict, last):
  assert judges.strict_number(text) == strict
  assert judges.last_number(text) == last


def test_numbers_judges_by_both_conventions():
  judge = judges.numbers('1,080')
  assert judge('... #### 1080') == {'exact_match': 1.0, 'flexible': 1.0}
  assert judge('it is $1,080.') == {'exact_match': 0.0, 'flexible': 1.0}
  assert judge('#### 1080, not 12') == {'exact_match': 1.0, 'flexible': 0.0}


@pytest.mark.parametrize(('samples', 'passed', 'k'), [(5, 2, 3), (4, 0, 2)])
def test_pass_at_k_is_the_share_of_draws_with_a_sample_that_passed(
  samples, passed, k
):
  draws = list(itertools.combinations(range(samples), k))
  share = sum(min(draw) < passed for draw in draws) / len(draws)
  assert judges.pass_at(k, samples, passed) == pytest.approx(share)


def test_pass_at_k_of_fewer_samples_is_refused():
  with pytest.raises(InputError, match='pass@3 of 2 samples'):
    judges.pass_at(3, 2, 1)


def test_values_runs_programs_in_one_batch_and_averages_the_others():
  batches = []

  def run(programs):
    batches.append(programs)
    return [program.endswith('1') for program in programs]

  program = Prompt('a', program=lambda text: 'x = ' + text)
  judged = Prompt('b', judge=lambda text: {'exact_match': float(text == '1')})
  results = judges.values(
    [program, judged, program], [['1', '2'], ['1', '2'], ['1', '1']], run
  )
  assert results == [{'pass@1': 0.5}, {'exact_match': 0.5}, {'pass@1': 1.0}]
  assert batches == [['x = 1', 'x = 2', 'x = 1', 'x = 1']]


def test_pass_at_10_needs_ten_samples():
  prompt = Prompt('', program=str)
  run = lambda programs: [program == '0' for program in programs]
  (result,) = judges.values([prompt], [[str(i) for i in range(20)]], run)
  # 1 of 20 passed: one of ten draws contains it with probability 10 / 20.
  assert result == {'pass@1': pytest.approx(0.05), 'pass@10': 0.5}


def test_programs_do_not_run_without_leave():
  with pytest.raises(InputError, match='run_generated_code'):
    judges.values([Prompt('', program=str)], [['']])
  judged = Prompt('', judge=lambda _: {'exact_match': 1.0})
  assert judges.values([judged], [['']]) == [{'exact_match': 1.0}]
