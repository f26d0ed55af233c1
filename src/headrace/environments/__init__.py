"""Environments: set up and take down what runs execute on. ``base`` holds the contract and the table of kinds."""
