"""The pure core: authoring, states, rules, plan, machine. Standard library only; no IO, no clock."""
