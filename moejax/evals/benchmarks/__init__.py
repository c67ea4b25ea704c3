"""BENCHMARKS: every benchmark by its name, and SUITES of them as papers ask.

The entries of BENCHMARKS follow the conventions of EleutherAI's evaluation
harness, and have its names. A suite changes what its paper asks otherwise:
prompt, number of solved rows, normalisation.

To add one: its rows' columns and its items in a file here, a line in the table,
and a test with rows and a score worked by hand.
"""

from collections import ChainMap
from collections.abc import Mapping

from moejax.evals.benchmark import Benchmark
from moejax.evals.benchmarks import (
  chinese,
  cloze,
  codemmlu,
  commonsense,
  coreference,
  drop,
  grammar,
  mathematics,
  offline,
  programs,
  questions,
  reading,
  reasoning,
  subjects,
  vision,
)

BENCHMARKS: dict[str, Benchmark] = {
  'arc_challenge': commonsense.ARC_CHALLENGE,
  'arc_easy': commonsense.ARC_EASY,
  'bbh_cot_fewshot': reasoning.BBH,
  'blimp': grammar.BLIMP,
  'boolq': reading.BOOLQ,
  'cbt': cloze.CBT,
  'ceval': chinese.CEVAL,
  'chid': chinese.CHID,
  'cluewsc': coreference.CLUEWSC,
  'cmmlu': chinese.CMMLU,
  'commonsense_qa': commonsense.COMMONSENSE_QA,
  'drop': drop.DROP,
  'gsm8k': mathematics.GSM8K,
  'hellaswag': commonsense.HELLASWAG,
  'humaneval': programs.HUMANEVAL,
  'lambada_openai': cloze.LAMBADA_OPENAI,
  'mbpp': programs.MBPP,
  'minerva_math': mathematics.MINERVA_MATH,
  'mmlu': subjects.MMLU,
  'nq_open': questions.NQ_OPEN,
  'openbookqa': commonsense.OPENBOOKQA,
  'piqa': commonsense.PIQA,
  'race': reading.RACE,
  'race_high': reading.RACE_HIGH,
  'race_middle': reading.RACE_MIDDLE,
  'social_iqa': commonsense.SOCIAL_IQA,
  'triviaqa': questions.TRIVIAQA,
  'winogrande': commonsense.WINOGRANDE,
}


def suite(*families: Mapping[str, Benchmark]) -> dict[str, Benchmark]:
  """The benchmarks of several families by name, in alphabetical order."""
  return dict(sorted(ChainMap(*map(dict, families)).items()))


SUITES: dict[str, dict[str, Benchmark]] = {
  'codemmlu': codemmlu.CODEMMLU,
  'deepseekmoe': suite(
    chinese.DEEPSEEKMOE,
    commonsense.DEEPSEEKMOE,
    coreference.DEEPSEEKMOE,
    drop.DEEPSEEKMOE,
    mathematics.DEEPSEEKMOE,
    programs.DEEPSEEKMOE,
    questions.DEEPSEEKMOE,
    reading.DEEPSEEKMOE,
    reasoning.DEEPSEEKMOE,
    subjects.DEEPSEEKMOE,
  ),
  'libmoe': suite(
    cloze.LIBMOE,
    commonsense.LIBMOE,
    grammar.LIBMOE,
    reading.LIBMOE,
    subjects.LIBMOE,
  ),
  'lm_eval': BENCHMARKS,
  'offline': offline.OFFLINE,
  'vision': vision.VISION,
}
