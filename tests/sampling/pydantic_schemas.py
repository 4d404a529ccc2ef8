"""Models as programs write them, whose JSON schemas are asked for; each with a value it takes."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

from pydantic import (
    AnyUrl,
    AwareDatetime,
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    Json,
    RootModel,
    SecretStr,
    StringConstraints,
    TypeAdapter,
    conlist,
)
from pydantic.types import PositiveInt
from typing_extensions import TypedDict


class Colour(enum.StrEnum):
    RED = "red"
    GREEN = "green"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Person(BaseModel):
    """A person, as extraction examples have one."""

    name: str
    age: int
    email: str | None = None


class Address(BaseModel):
    street: str
    city: str
    zip_code: Annotated[str, StringConstraints(pattern=r"^\d{5}(-\d{4})?$")]


class Customer(Person):
    addresses: list[Address] = Field(default_factory=list, max_length=3)
    home: Address | None = None


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int
    b: Literal["x", "y"] = "x"


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Node(BaseModel):
    value: int
    next: Node | None = None


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


class Expression(BaseModel):
    left: Expression | float
    operator: Literal["+", "-"]
    right: Expression | float


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    breed: str


class Pet(BaseModel):
    pet: Cat | Dog = Field(discriminator="kind")


class Shelter(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]
    by_name: dict[str, Cat | Dog] = {}


class Limits(BaseModel):
    small: Annotated[int, Field(gt=0, lt=10)]
    share: Annotated[float, Field(ge=0, le=1)]
    even: Annotated[int, Field(multiple_of=2, ge=0, le=100)]
    word: Annotated[str, Field(min_length=2, max_length=8)]
    code: Annotated[str, Field(pattern="^[A-Z]{3}[0-9]+$")]
    positive: PositiveInt


class Times(BaseModel):
    at: datetime
    on: date
    clock: time
    length: timedelta
    zoned: AwareDatetime | None = None


class Odd(BaseModel):
    id: UUID
    where: Path
    site: HttpUrl
    other: AnyUrl
    host: IPv4Address
    far: IPv6Address | None = None
    secret: SecretStr
    price: Decimal
    inner: Json[dict[str, int]]
    data: Base64Bytes = b""


class Containers(BaseModel):
    items: list[int]
    unique: set[str]
    frozen: frozenset[Colour]
    pair: tuple[int, str]
    many: tuple[float, ...]
    table: dict[str, list[int]]
    numbered: dict[int, str]
    anything: Any
    queue: deque[int] = Field(default_factory=deque)
    row: Sequence[bool] = ()
    few: conlist(int, min_length=1, max_length=3) = [1]  # type: ignore[valid-type]


class Described(BaseModel):
    """Titles, examples and defaults are annotations."""

    model_config = ConfigDict(
        title="What is described", json_schema_extra={"examples": [{"full-name": "A"}]}
    )
    name: str = Field(alias="full-name", title="Name", description="The name.", examples=["A", "B"])
    rank: int = Field(3, deprecated=True, json_schema_extra={"x-order": 2})
    nickname: str | None = Field(None, description="May be left out.")


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Movie(TypedDict):
    title: str
    year: int


@dataclass
class Setting:
    key: str
    value: int | str | None = None


T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    items: list[T]
    total: int


class Names(RootModel[list[str]]):
    """A list as a whole answer."""


class Step(BaseModel):
    explanation: str
    output: str


class Reasoning(BaseModel):
    """OpenAI's own example of structured output."""

    steps: list[Step]
    final_answer: str


class Meeting(BaseModel):
    name: str
    date: str
    participants: list[str]


class Flags(BaseModel):
    ok: bool
    kind: Colour
    size: Size
    none: None = None
    either: bool | int | str = 0
    one: Literal[1, "1", True, None] = 1


class Deep(BaseModel):
    level: dict[str, dict[str, list[tuple[int, Address | None]]]]


ADDRESS = {"street": "a", "city": "b", "zip_code": "12345-6789"}
# What is asked for -> a value of it, as JSON has it.
MODELS: list[tuple[Any, Any]] = [
    (Person, {"name": "Ann", "age": 3}),
    (Person, {"name": "Ann", "age": -3, "email": None}),
    (Address, ADDRESS),
    (Customer, {"name": "A", "age": 1, "email": "x", "addresses": [ADDRESS], "home": ADDRESS}),
    (Strict, {"a": 1, "b": "y"}),
    (Open, {"a": 1, "more": [1, {}]}),
    (Node, {"value": 1, "next": {"value": 2, "next": None}}),
    (Tree, {"name": "r", "children": [{"name": "c", "children": []}]}),
    (Expression, {"left": {"left": 1, "operator": "+", "right": 2.5}, "operator": "-", "right": 3}),
    (Pet, {"pet": {"kind": "cat", "lives": 9}}),
    (
        Shelter,
        {"pets": [{"kind": "dog", "breed": "b"}], "by_name": {"x": {"kind": "cat", "lives": 0}}},
    ),
    (
        Limits,
        {"small": 9, "share": 0.5, "even": 4, "word": "wörd", "code": "ABC1", "positive": 12},
    ),
    (
        Times,
        {
            "at": "2026-01-02T03:04:05Z",
            "on": "2026-01-02",
            "clock": "03:04:05Z",
            "length": "P1DT2H",
        },
    ),
    (
        Odd,
        {
            "id": "123e4567-e89b-12d3-a456-426614174000",
            "where": "a/b",
            "site": "https://example.com/",
            "other": "ftp://example.com/x",
            "host": "127.0.0.1",
            "secret": "s",
            "price": "1.50",
            "inner": '{"a": 1}',
            "data": "YWJj",
        },
    ),
    (
        Containers,
        {
            "items": [1],
            "unique": ["a"],
            "frozen": ["red"],
            "pair": [1, "a"],
            "many": [1.5, 2],
            "table": {"a": [1]},
            "numbered": {"1": "a"},
            "anything": {"b": [None]},
            "queue": [1],
            "row": [True],
            "few": [1, 2],
        },
    ),
    (Described, {"full-name": "A", "rank": 1, "nickname": None}),
    (Point, [1.0, 2.0]),
    (Movie, {"title": "M", "year": 1999}),
    (Setting, {"key": "k", "value": None}),
    (Page[Person], {"items": [{"name": "A", "age": 1}], "total": 1}),
    (Page[Page[int]], {"items": [{"items": [1], "total": 1}], "total": 1}),
    (Names, ["a", "b"]),
    (Reasoning, {"steps": [{"explanation": "e", "output": "o"}], "final_answer": "f"}),
    (Meeting, {"name": "m", "date": "Friday", "participants": ["A"]}),
    (Flags, {"ok": True, "kind": "red", "size": 2, "none": None, "either": "x", "one": "1"}),
    (Deep, {"level": {"a": {"b": [[1, None], [2, ADDRESS]]}}}),
    (list[Person], [{"name": "A", "age": 1}]),
    (dict[str, float], {"a": 1.5}),
    (dict[Colour, int], {"red": 1}),
    (tuple[int, ...], [1, 2]),
    (tuple[int, Person], [1, {"name": "A", "age": 2}]),
    (set[int], [1, 2]),
    (Person | Cat, {"kind": "cat", "lives": 1}),
    (int | str | None, None),
    (Literal["a", "b"], "b"),
    (Colour, "green"),
    (bool, False),
    (float, -1.5e10),
    (bytes, "raw"),
    (Any, {"x": [1, None]}),
    (Annotated[list[Literal[1, 2]], Field(min_length=2, max_length=2)], [1, 2]),
    (Annotated[str, StringConstraints(min_length=3, pattern="a$")], "bca"),
    (Annotated[Decimal, Field(max_digits=5, decimal_places=2)], "1.25"),
    (list[Annotated[Cat | Dog, Field(discriminator="kind")]], [{"kind": "dog", "breed": "x"}]),
]


def schema_of(kind: Any, mode: Literal["validation", "serialization"] = "validation") -> Any:
    return TypeAdapter(kind).json_schema(mode=mode)
