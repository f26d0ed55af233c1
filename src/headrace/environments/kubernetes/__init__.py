"""Dask clusters on Kubernetes: what one is (``spec``), as manifests of Dask's operator, and how it lives."""
