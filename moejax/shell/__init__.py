"""COMMANDS: what `moejax NAME` runs, by group; help and completion of them.

Nothing here imports JAX, so that `moejax train --help` and a press of the TAB
key take a tenth of a second.
"""

from collections.abc import Mapping

# Group -> module of each command, in the order of the list that `moejax` shows.
# A command's name is that of its module (`core.command.name_of`); the line that
# describes it is the first line of its docstring.
GROUPS: Mapping[str, tuple[str, ...]] = {
  'Train': (
    'moejax.main',
    'moejax.cli.sweep',
    'moejax.cli.stages',
    'moejax.cli.config',
  ),
  'Use a trained model': (
    'moejax.cli.evaluate',
    'moejax.cli.generate',
    'moejax.cli.chat',
    'moejax.cli.lm_eval',
    'moejax.cli.codemmlu',
  ),
  'See what its experts do': (
    'moejax.cli.report',
    'moejax.cli.watch',
    'moejax.cli.trace',
    'moejax.cli.analyse',
    'moejax.cli.intervene',
  ),
  'Make a model of another': (
    'moejax.cli.convert',
    'moejax.cli.compress',
    'moejax.cli.encoder',
    'moejax.cli.llava',
  ),
  'Before a run': (
    'moejax.cli.count',
    'moejax.cli.plan',
    'moejax.cli.check',
    'moejax.cli.cache',
    'moejax.cli.train_tokenizer',
    'moejax.cli.scenes',
  ),
  'This installation': ('moejax.cli.doctor', 'moejax.cli.completion'),
}
