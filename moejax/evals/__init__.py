"""A state to the numbers a paper would print."""
