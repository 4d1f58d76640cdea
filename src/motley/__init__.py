"""Motley runs one Mixture-of-Experts model across machines that do not match."""

__version__ = "0.1.0"
