"""Where flows and runs lie: bytes over fsspec, envelopes, flows, runs. Knows nothing of how runs are executed."""
