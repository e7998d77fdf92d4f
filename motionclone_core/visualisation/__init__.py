"""Motions and results as pictures."""
