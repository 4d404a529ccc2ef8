"""Exactness and benchmark loops."""
