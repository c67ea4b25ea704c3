"""Commands: each has its flags, one call, and what is printed."""
