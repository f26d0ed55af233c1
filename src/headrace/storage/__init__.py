"""Where flows and runs lie: bytes over fsspec, envelopes, flows, runs. Nothing here executes runs."""
