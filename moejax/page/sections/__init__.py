"""The sections of the page of one run; moejax.page.SECTIONS lists them."""
