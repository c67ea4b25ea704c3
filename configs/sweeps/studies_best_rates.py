"""The best learning rate of each method of studies.py.

Written by moejax.research.learning_rates.
"""

BEST_RATES = {}
