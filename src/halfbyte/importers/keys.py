"""Fields of a model's config, named as in config.json, with their types checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from halfbyte.errors import SourceError

_FIX = "this model cannot be run; use one without it, or check its config"
_MOST_LAYERS = 1 << 12
Kind = TypeVar("Kind")


class Keys:
    """Values by key; `label` is what a message calls a key."""

    def __init__(
        self, values: Mapping[str, Any], label: Callable[[str], str] = lambda key: key
    ) -> None:
        self.values = values
        self._label = label

    def inside(self, key: str) -> Keys:
        """An object among the values; absent or null: an empty one."""
        value = self.values.get(key) or {}
        if not isinstance(value, dict):
            raise self.fault(key, type(value).__name__, "an object")
        return Keys(value, lambda inner: self._label(f"{key} {inner}"))

    def with_values(self, changes: Mapping[str, Any], *, only: bool = False) -> Keys:
        """The same with some values changed, or those alone."""
        return Keys(changes if only else {**self.values, **changes}, self._label)

    def integer(self, key: str, default: int | None = None) -> int:
        """A non-negative integer."""
        value = self._value(key, default)
        if type(value) is not int or not 0 <= value < 1 << 31:
            raise self.fault(key, repr(value)[:80], "a non-negative integer")
        return value

    def positive(self, key: str, default: int | None = None) -> int:
        """An integer above zero."""
        value = self.integer(key, default)
        if value < 1:
            raise self.fault(key, value, "a positive integer")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A number."""
        value = self._value(key, default)
        if not isinstance(value, float | int) or isinstance(value, bool) or not abs(value) < 1e30:
            raise self.fault(key, repr(value)[:80], "a number")
        return float(value)

    def maybe_real(self, key: str) -> float | None:
        """A number; None where it is absent or null."""
        return None if self.values.get(key) is None else self.real(key)

    def nonzero(self, key: str, default: float) -> float:
        """A number that divides."""
        value = self.real(key, default)
        if abs(value) < 1e-6:
            raise self.fault(key, value, "a number other than 0")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """A boolean."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.fault(key, repr(value)[:80], "true or false")
        return value

    def require(self, key: str, wanted: object) -> None:
        """Refuse any value but one."""
        if self.values.get(key, wanted) != wanted:
            raise self.fault(key, repr(self.values[key])[:80], repr(wanted))

    def numbers(self, key: str, most: int = 1 << 12) -> tuple[float, ...]:
        """A list of numbers."""
        value = self.values.get(key)
        if not isinstance(value, list) or not 0 < len(value) <= most:
            raise self.fault(key, repr(value)[:80], f"a list of 1 to {most} numbers")
        return tuple(Keys({key: entry}, self._label).real(key) for entry in value)

    def each_layer(self, key: str, default: Callable[[int], Any]) -> list[Any]:
        """One entry a layer, from a list or, where there is none, by rule."""
        layers, value = self.positive("num_hidden_layers"), self.values.get(key)
        if layers > _MOST_LAYERS:
            raise self.fault("num_hidden_layers", layers, f"at most {_MOST_LAYERS}")
        if value is None:
            return [default(i) for i in range(layers)]
        if not isinstance(value, list) or len(value) < layers:
            raise self.fault(key, repr(value)[:80], f"one entry for each of {layers} layers")
        return value[:layers]

    def layer_types(self, kinds: Mapping[str, Kind], default: Callable[[int], str]) -> list[Kind]:
        """`layer_types`, each as the kind it names."""
        named = self.each_layer("layer_types", default)
        for name in named:
            if not isinstance(name, str) or name not in kinds:
                raise self.fault("layer_types", repr(name)[:80], " or ".join(kinds))
        return [kinds[name] for name in named]

    def fault(self, key: str, got: object, expected: object) -> SourceError:
        """A value that cannot be."""
        return SourceError(self._label(key), got=got, expected=expected, fix=_FIX)

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        return default if value is None else value
