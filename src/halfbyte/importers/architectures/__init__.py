"""Families of models, each a table: config keys, layers, tensor names.

A family of parts that layers can have (config/layers.py) is added here and nowhere else.
"""

from __future__ import annotations

from halfbyte.importers.architectures import dense, experts, gemma, plain
from halfbyte.importers.architectures.family import Family, described

FAMILIES: tuple[Family, ...] = (
    *plain.FAMILIES,
    *experts.FAMILIES,
    *gemma.FAMILIES,
    gemma.GEMMA4,
    gemma.GEMMA4_EXPERTS,
    *dense.FAMILIES,
)
BY_NAME = {family.name: family for family in FAMILIES}  # also the `model_type` of config.json

__all__ = ["BY_NAME", "FAMILIES", "Family", "described"]
