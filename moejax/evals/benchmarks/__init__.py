"""BENCHMARKS: every benchmark by its name, and SUITES of them as papers ask.

The entries of BENCHMARKS follow the conventions of EleutherAI's evaluation
harness. A suite changes what its paper asks otherwise: prompt, number of solved
rows, normalisation.

To add one: its rows' columns and its items in a file here, a line in the table,
and a test with rows and a score worked by hand.
"""

from moejax.evals.benchmark import Benchmark

BENCHMARKS: dict[str, Benchmark] = {}

SUITES: dict[str, dict[str, Benchmark]] = {'lm_eval': BENCHMARKS}
