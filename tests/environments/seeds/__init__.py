"""Flows whose runs would go wrong somewhere; modules of their own, so that each travels with what it needs alone."""
