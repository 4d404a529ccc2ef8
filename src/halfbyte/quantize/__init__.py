"""Floating point weights -> planes."""
