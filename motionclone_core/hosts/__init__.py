"""Hosts: where the taps of a model family are, and how it is run."""
