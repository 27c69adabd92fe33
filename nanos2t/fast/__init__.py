"""Opt-in speed: optimise.py shows which modules of the core are replaced, and by what."""
