"""Shared by tests: tiny models, and slow references."""
