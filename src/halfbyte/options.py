"""Options as fields of dataclasses: default, check and description of each in one place.

The command line is made from them (`cli.options`), so a new field is an option of every command
that takes its class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from halfbyte.checks import check_int, check_known, check_number, check_one_of

Check = Callable[[str, object], None]
OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True, slots=True)
class Shown:
    """How a command shows an option."""

    help: str
    flags: tuple[str, ...] = ()  # none: the field's own name
    default_text: str | None = None  # in place of the value
    metavar: str | None = None


def option(
    default: Any,
    help: str | None,
    check: Check | None = None,
    *flags: str,
    default_text: str | None = None,
    metavar: str | None = None,
) -> Any:
    """A field of an options class; `check` sees every value but None where that is the default.

    Without `help` no command shows it.
    """
    shown = None if help is None else Shown(help, flags, default_text, metavar)
    return field(default=default, metadata={"shown": shown, "check": check})


def check_options(options: Any, what: str = "") -> None:
    """Refuse the first value that its field does not take; `what` stands before its name."""
    for each in fields(options):
        value, check = getattr(options, each.name), each.metadata.get("check")
        if check is not None and not (value is None and each.default is None):
            check(f"{what} {each.name}".strip(), value)


def with_values(options: OptionsT, values: dict[str, Any]) -> OptionsT:
    """The same options with some of their fields changed; those are taken out of `values`."""
    names = [each.name for each in fields(options)]  # type: ignore[arg-type]
    own = {name: values.pop(name) for name in names if name in values}
    return replace(options, **own) if own else options  # type: ignore[type-var]


def refuse_unknown(what: str, values: Mapping[str, Any], *classes: Any) -> None:
    """Refuse a name that no field of these classes has."""
    known = [each.name for cls in classes for each in fields(cls)]
    for name in values:
        check_known(what, str(name), known)


@dataclass(frozen=True, slots=True)
class Range:
    """Takes an integer or a finite number within bounds; the flags are those of `check_number`."""

    kind: type[int] | type[float]
    low: float
    high: float
    fix: str
    open_low: bool = False
    open_high: bool = False
    or_zero: bool = False

    def __call__(self, name: str, value: object) -> None:
        """ArgumentError where the value is another."""
        if self.kind is int:
            check_int(name, value, int(self.low), int(self.high), self.fix)
        else:
            check_number(
                name,
                value,
                self.low,
                self.high,
                self.fix,
                open_low=self.open_low,
                open_high=self.open_high,
                or_zero=self.or_zero,
            )


def integer(low: int, high: int, fix: str) -> Check:
    """Takes an integer from `low` to `high`."""
    return Range(int, low, high, fix)


def number(low: float, high: float, fix: str, **bounds: bool) -> Check:
    """Takes a finite number from `low` to `high`; `bounds`: see `check_number`."""
    return Range(float, low, high, fix, **bounds)


def one_of(*known: object, fix: str = "choose one") -> Check:
    """Takes one of a few values."""
    return lambda name, value: check_one_of(name, value, known, fix)
