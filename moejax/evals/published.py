"""PUBLISHED: scores that papers print, by suite and column, in percent.

They are copied from the papers and were measured by their authors, with
prompts that are only known in part; `moejax evaluate` marks them as
published. DeepSeekMoE is arXiv 2401.06066; the others are arXiv 2505.10860,
whose models LibMoE trains. Losses and bits per byte of the papers' own
validation sets are left out.

To add a column: a line in one of the tables here, whose tasks are names of the
suite.
"""

import dataclasses
from collections.abc import Mapping

DEEPSEEKMOE = 'arXiv 2401.06066'
SHARED_EXPERTS = 'arXiv 2505.10860'


@dataclasses.dataclass(frozen=True)
class Published:
  """The scores of one model in a paper.

  Attributes:
    title: the model, as a column is headed.
    source: paper and table.
    scores: by task of the suite, in percent.
    shown: whether the column is shown unless another is asked for.
  """

  title: str
  source: str
  scores: Mapping[str, float]
  shown: bool = False


def _columns(
  source: str,
  tasks: str,
  lines: Mapping[str, tuple[str, str]],
  shown: tuple[str, ...] = (),
) -> dict[str, Published]:
  """Columns of a table.

  Args:
    source: paper and table.
    tasks: names of the tasks.
    lines: by name, the model and its scores in the tasks' order; - for none.
    shown: names of the columns that are shown by default.
  """
  return {
    name: Published(
      title,
      source,
      {
        task: float(score)
        for task, score in zip(tasks.split(), scores.split(), strict=True)
        if score != '-'
      },
      name in shown,
    )
    for name, (title, scores) in lines.items()
  }


_SMALL = (
  'hellaswag piqa arc_easy arc_challenge race_middle race_high humaneval mbpp '
  'triviaqa naturalquestions'
)
_LARGE = (
  'hellaswag piqa arc_easy arc_challenge race_middle race_high drop gsm8k math '
  'humaneval mbpp triviaqa naturalquestions mmlu winogrande cluewsc ceval '
  'cmmlu chid'
)
_CHAT = (
  'hellaswag piqa arc_easy arc_challenge bbh race_middle race_high drop gsm8k '
  'math humaneval mbpp triviaqa naturalquestions mmlu winogrande cluewsc ceval '
  'cmmlu'
)
_NINE = (
  'lambada_openai blimp cbt hellaswag piqa arc_challenge race social_iqa '
  'commonsense_qa'
)

_DEEPSEEKMOE = {
  **_columns(
    f'{DEEPSEEKMOE}, Table 1 (2B, 100B tokens)',
    _SMALL,
    {
      'dense_2b': (
        'Dense 0.2B',
        '38.8 66.8 41.0 26.0 38.8 29.0 0.0 0.2 4.9 1.4',
      ),
      'hash_2b': (
        'Hash Layer 2B',
        '46.2 68.4 45.3 28.2 38.8 30.0 1.2 0.6 6.5 1.4',
      ),
      'switch_2b': (
        'Switch 2B',
        '49.1 70.5 45.9 30.2 43.6 30.9 2.4 0.4 8.9 2.5',
      ),
      'gshard_2b': (
        'GShard 2B',
        '50.5 70.6 43.9 31.6 42.1 30.4 3.7 0.2 10.2 3.2',
      ),
      'deepseekmoe_2b': (
        'DeepSeekMoE 2B',
        '54.8 72.3 49.4 34.3 44.0 31.7 4.9 2.2 16.6 5.7',
      ),
    },
    shown=('gshard_2b', 'deepseekmoe_2b'),
  ),
  **_columns(
    f'{DEEPSEEKMOE}, Tables 2, 8 and 9 (100B tokens)',
    _SMALL,
    {
      'gshard_1.5x': (
        'GShard x1.5',
        '54.4 71.1 47.3 34.1 46.4 32.4 3.0 2.6 15.7 4.7',
      ),
      'dense_16x': (
        'Dense x16',
        '55.1 71.9 51.9 33.8 46.3 33.0 4.3 2.2 16.5 6.3',
      ),
      'gshard_1.2x': (
        'GShard x1.2',
        '53.7 71.8 46.8 31.7 43.7 31.9 3.7 2.4 15.2 4.5',
      ),
      'dense_4x': (
        'Dense x4',
        '47.6 70.0 43.9 30.5 42.4 30.7 1.8 0.2 9.9 3.0',
      ),
    },
  ),
  **_columns(
    f'{DEEPSEEKMOE}, Figure 3 (2B ablations, read from its bars)',
    'hellaswag piqa arc_easy arc_challenge triviaqa naturalquestions',
    {
      'shared_1_of_15': ('1 shared + 1 of 15', '52.4 70.7 48.0 31.3 14.1 4.5'),
      'shared_3_of_31': ('1 shared + 3 of 31', '53.7 70.4 49.3 31.5 15.5 5.0'),
    },
  ),
  **_columns(
    f'{DEEPSEEKMOE}, Figure 6 (2B, half of the active experts)',
    'hellaswag piqa arc_easy arc_challenge triviaqa naturalquestions',
    {'half_active': ('1 shared + 3 of 63', '51.9 71.4 48.0 32.9 15.9 5.2')},
  ),
  **_columns(
    f'{DEEPSEEKMOE}, Table 10 (13B, 100B tokens)',
    _SMALL,
    {
      'gshard_1.2x_13b': (
        'GShard x1.2 13B',
        '66.6 75.6 56.8 39.9 51.6 37.4 6.1 7.0 36.5 12.6',
      ),
      'gshard_1.5x_13b': (
        'GShard x1.5 13B',
        '67.7 76.0 56.8 37.6 50.6 36.3 6.1 11.6 36.7 12.1',
      ),
      'deepseekmoe_13b': (
        'DeepSeekMoE 13B',
        '69.1 75.7 58.8 38.5 52.4 38.5 9.8 10.6 38.2 13.7',
      ),
    },
  ),
  **_columns(
    f'{DEEPSEEKMOE}, Tables 3 and 4 (2T tokens)',
    _LARGE,
    {
      'deepseek_7b': (
        'DeepSeek 7B',
        '75.4 79.2 67.9 48.1 63.2 46.5 34.9 17.4 3.3 26.2 39.0 59.7 22.2 48.2 '
        '70.5 73.1 45.0 47.2 89.3',
      ),
      'llama2_7b': (
        'LLaMA2 7B',
        '75.6 78.0 69.1 49.0 60.7 45.8 34.0 15.5 2.6 14.6 21.8 63.8 25.5 45.8 '
        '69.6 64.0 33.9 32.6 37.9',
      ),
      'deepseekmoe_16b': (
        'DeepSeekMoE 16B',
        '77.1 80.2 68.1 49.8 61.9 46.4 32.9 18.8 4.3 26.8 39.2 64.8 25.5 45.0 '
        '70.2 72.1 40.6 42.5 89.4',
      ),
    },
    shown=('deepseekmoe_16b',),
  ),
  **_columns(
    f'{DEEPSEEKMOE}, Table 5 (chat models; other numbers of shots)',
    _CHAT,
    {
      'llama2_7b_sft': (
        'LLaMA2 SFT 7B',
        '67.9 76.9 69.7 50.8 39.3 63.9 49.6 40.0 63.4 13.5 35.4 27.8 60.1 35.2 '
        '50.0 65.1 48.4 35.1 36.9',
      ),
      'deepseek_chat_7b': (
        'DeepSeek Chat 7B',
        '71.0 78.4 70.2 50.2 43.1 66.1 50.8 41.7 62.6 14.7 45.1 39.0 59.5 32.7 '
        '49.7 68.4 66.2 44.7 51.2',
      ),
      'deepseekmoe_chat_16b': (
        'DeepSeekMoE Chat 16B',
        '72.2 79.7 69.9 50.0 42.2 64.8 50.6 33.8 62.2 15.2 45.7 46.2 63.3 35.1 '
        '47.2 69.0 68.2 40.0 49.3',
      ),
    },
  ),
}

_LIBMOE = _columns(
  f'{SHARED_EXPERTS}, Table 2',
  _NINE,
  {
    'smoe_158m': (
      'SMoE 158M',
      '25.27 77.71 84.18 29.43 57.94 21.20 30.11 35.62 24.65',
    ),
    'deepseek_v3_158m': (
      'DeepSeek-V3 158M',
      '25.49 77.20 84.40 29.38 59.14 21.63 30.60 35.57 25.47',
    ),
    'deepseek_v2_158m': (
      'DeepSeek-V2 158M',
      '25.29 77.37 84.33 29.38 60.17 20.52 31.02 34.90 24.98',
    ),
    'smoe_sg_158m': (
      'SMoE-SG 158M',
      '25.43 77.38 84.23 29.13 58.92 21.37 31.05 34.90 24.90',
    ),
    'smoe_679m': (
      'SMoE 679M',
      '37.13 80.47 89.83 37.49 64.36 23.09 33.03 37.41 26.54',
    ),
    'deepseek_v3_679m': (
      'DeepSeek-V3 679M',
      '36.88 81.28 89.65 37.32 65.72 23.95 33.12 38.59 28.09',
    ),
    'deepseek_v2_679m': (
      'DeepSeek-V2 679M',
      '37.11 80.98 89.93 37.14 64.36 24.21 33.17 36.95 27.35',
    ),
    'smoe_sg_679m': (
      'SMoE-SG 679M',
      '37.56 81.08 89.57 37.52 64.91 23.09 32.68 37.67 28.50',
    ),
  },
  shown=(
    'smoe_158m',
    'deepseek_v3_158m',
    'smoe_679m',
    'deepseek_v3_679m',
  ),
)

PUBLISHED: dict[str, dict[str, Published]] = {
  'deepseekmoe': _DEEPSEEKMOE,
  'libmoe': _LIBMOE,
}
