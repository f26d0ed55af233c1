"""Preflight: what can be known about a cluster, a storage and a flow before a run finds out the hard way."""
