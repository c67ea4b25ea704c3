"""Devices, and how arrays lie on them."""
