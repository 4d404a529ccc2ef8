"""Runtimes: what runs a model's steps. `native` is the fast one, `reference` its numpy twin."""
