"""Mixture-of-Experts language models in JAX. Imports nothing."""

__version__ = '0.1.0'
