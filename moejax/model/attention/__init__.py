"""Attention: kinds of heads, rotary positions, cores and caches."""
