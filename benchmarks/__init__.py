"""Measurements of headrace, next to what raw Dask does with the same graph."""
