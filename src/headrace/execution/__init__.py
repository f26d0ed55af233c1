"""Executing batches: the executors, what runs on a worker, and the runner that joins them to the machine."""
