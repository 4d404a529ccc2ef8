"""Chooses what proposes in every cycle. What other values of its constants do: docs/planner.md."""
