"""A config to what it will cost, before it runs."""
