"""The sections of the page of several runs, see moejax.page.COMPARISONS."""
