"""What a model is, as data (`ModelConfig`), and in which precision a forward runs (`Level`)."""

from halfbyte.config.fields import check_integer, check_real
from halfbyte.config.layers import Attention, Experts, FeedForward, LayerConfig
from halfbyte.config.level import LEVEL_NAMES, Level
from halfbyte.config.model import GROUP_SIZES, ModelConfig
from halfbyte.config.rope import RopeConfig
from halfbyte.config.stored import (
    FLAT_FAMILIES,
    FlatModel,
    is_flat,
    model_values,
    read_model,
    uniform_model,
)

__all__ = [
    "FLAT_FAMILIES",
    "GROUP_SIZES",
    "LEVEL_NAMES",
    "Attention",
    "Experts",
    "FeedForward",
    "FlatModel",
    "LayerConfig",
    "Level",
    "ModelConfig",
    "RopeConfig",
    "check_integer",
    "check_real",
    "is_flat",
    "model_values",
    "read_model",
    "uniform_model",
]
