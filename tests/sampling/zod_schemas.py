"""JSON schemas as zod's converters write them, each with a value it takes and some it does not.

`of` is what z.toJSONSchema of zod 4 makes, `of_3` what zod-to-json-schema makes of zod 3.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
SAFE = 2**53 - 1
INT: Schema = {"type": "integer", "minimum": -SAFE, "maximum": SAFE}
STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
NULL: Schema = {"type": "null"}
DATE = (
    r"(?:(?:\d\d[2468][048]|\d\d[13579][26]|\d\d0[48]|[02468][048]00|[13579][26]00)-02-29"
    r"|\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    r"|(?:02)-(?:0[1-9]|1\d|2[0-8])))"
)
TIME = r"(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?"
EMAIL = (
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+"
    r"[A-Za-z]{2,}$"
)
UUID = (
    "^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}"
    "|00000000-0000-0000-0000-000000000000|ffffffff-ffff-ffff-ffff-ffffffffffff)$"
)
IPV4 = (
    r"^(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])\.){3}"
    r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])$"
)


def strict(*optional: str, **properties: Schema) -> Schema:
    """z.object: every property is required but the optional ones, and no other is allowed."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def either(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def const(value: Any) -> Schema:
    return {"type": "string" if isinstance(value, str) else "number", "const": value}


def text(**more: Any) -> Schema:
    return {"type": "string", **more}


def ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def of(schema: Schema, **definitions: Schema) -> Schema:
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return head | schema | ({"$defs": definitions} if definitions else {})


def of_3(schema: Schema, name: str = "", **definitions: Schema) -> Schema:
    head: Schema = {"$schema": "http://json-schema.org/draft-07/schema#"}
    if not name:
        return schema | head | ({"definitions": definitions} if definitions else {})
    return {"$ref": f"#/definitions/{name}", "definitions": {name: schema, **definitions}} | head


CIRCLE = strict(kind=const("circle"), radius=NUMBER)
SQUARE = strict(kind=const("square"), side=NUMBER)
CATEGORY = strict(name=STRING, subcategories=array({"$ref": "#"}))
COMMENT = strict(text=STRING, replies=array({"$ref": "#/definitions/Comment"}))

# Name -> schema, a value of it, values that are none of it.
SCHEMAS: dict[str, tuple[Schema, Any, list[Any]]] = {
    "object": (of(strict(name=STRING, age=INT)), {"name": "A", "age": 1}, [{"name": "A"}, [], 1]),
    "optional": (of(strict("b", a=STRING, b=NUMBER)), {"a": "x"}, [{"b": 1}, {"a": "x", "c": 1}]),
    "nullable": (of(strict(a=either(STRING, NULL))), {"a": None}, [{"a": 1}, {}]),
    "nullable 3": (of_3(strict(a={"type": ["string", "null"]})), {"a": None}, [{"a": 1}]),
    "nullable object 3": (
        of_3(strict(a=either(strict(b=NUMBER), NULL))),
        {"a": {"b": 1.5}},
        [{"a": {}}, {"a": "b"}],
    ),
    "nullish": (of(strict("a", a=either(INT, NULL))), {}, [{"a": "x"}]),
    "default": (of(strict(a={"default": "x", **STRING})), {"a": "y"}, [{"a": None}]),
    "described": (
        of(strict(a={"type": "string", "description": "What", "title": "A", "examples": ["b"]})),
        {"a": "é"},
        [{"a": False}],
    ),
    "loose": (
        of({"type": "object", "properties": {"a": STRING}, "required": ["a"]}),
        {"a": "x", "b": [1]},
        [{"b": 1}],
    ),
    "passthrough": (
        of({**strict(a=STRING), "additionalProperties": {}}),
        {"a": "x", "b": None},
        [{"a": 1}],
    ),
    "catchall": (
        of({**strict(a=STRING), "additionalProperties": NUMBER}),
        {"a": "", "b": 1},
        [{"a": "", "b": ""}],
    ),
    "record": (
        of({"type": "object", "propertyNames": STRING, "additionalProperties": INT}),
        {"a": 1, "b c": 2},
        [{"a": "x"}, []],
    ),
    "record of enum": (
        of(
            {
                "type": "object",
                "propertyNames": {"type": "string", "enum": ["a", "b"]},
                "additionalProperties": STRING,
                "required": ["a", "b"],
            }
        ),
        {"a": "x", "b": "y"},
        [{"a": 1, "b": "y"}],
    ),
    "record 3": (of_3({"type": "object", "additionalProperties": STRING}), {"a": "b"}, [{"a": 1}]),
    "tuple": (
        of({"type": "array", "prefixItems": [STRING, INT], "items": False, "minItems": 2}),
        ["a", 1],
        [["a"], [1, "a"], ["a", 1, 2]],
    ),
    "tuple and rest": (
        of({"type": "array", "prefixItems": [STRING], "items": NUMBER, "minItems": 1}),
        ["a", 1, 2.5],
        [["a", "b"], [1]],
    ),
    "tuple 3": (
        of_3({"type": "array", "minItems": 2, "maxItems": 2, "items": [STRING, NUMBER]}),
        ["a", 1],
        [["a"], [1, "a"]],
    ),
    "tuple and rest 3": (
        of_3({"type": "array", "minItems": 1, "items": [STRING], "additionalItems": NUMBER}),
        ["a", 1, 2],
        [["a", "b"]],
    ),
    "array of few": (of(array(INT, minItems=1, maxItems=2)), [1, 2], [[], [1, 2, 3], ["a"]]),
    "set 3": (of_3(array(STRING, uniqueItems=True)), ["a", "b"], [[1]]),
    "enum": (of(text(enum=["a", "b"])), "b", ["c", None]),
    "native enum 3": (of_3({"type": ["string", "number"], "enum": ["a", 1]}), 1, ["b", 2]),
    "literals": (of(strict(a={"enum": ["x", 1, True, None]})), {"a": True}, [{"a": False}]),
    "literal null": (of(strict(a=NULL)), {"a": None}, [{"a": 0}]),
    "union": (of(either(STRING, array(NUMBER))), [1, 2], [["a"], {}]),
    "discriminated union": (
        of({"oneOf": [CIRCLE, SQUARE]}),
        {"kind": "square", "side": 2},
        [{"kind": "circle", "side": 2}, {"kind": "x"}],
    ),
    "discriminated union 3": (
        of_3(strict(shape=either(CIRCLE, SQUARE))),
        {"shape": {"kind": "circle", "radius": 1}},
        [{"shape": {"kind": "circle"}}],
    ),
    "intersection": (
        of(
            {
                "allOf": [
                    {"type": "object", "properties": {"a": STRING}, "required": ["a"]},
                    {"type": "object", "properties": {"b": INT}, "required": ["b"]},
                ]
            }
        ),
        {"a": "x", "b": 1},
        [{"a": "x"}, {"a": "x", "b": "y"}],
    ),
    "recursive": (
        of(CATEGORY),
        {"name": "a", "subcategories": [{"name": "b", "subcategories": []}]},
        [{"name": "a", "subcategories": [{}]}],
    ),
    "mutually recursive": (
        of(
            strict(user=ref("User")),
            User=strict(name=STRING, posts=array(ref("Post"))),
            Post=strict(title=STRING, author=either(ref("User"), NULL)),
        ),
        {"user": {"name": "a", "posts": [{"title": "t", "author": None}]}},
        [{"user": {"name": "a", "posts": [{"title": "t"}]}}],
    ),
    "recursive 3": (
        of_3(COMMENT, "Comment"),
        {"text": "a", "replies": [{"text": "b", "replies": []}]},
        [{"text": "a"}],
    ),
    "a path into itself 3": (
        of_3(strict(a=strict(b=INT), c={"$ref": "#/properties/a"})),
        {"a": {"b": 1}, "c": {"b": 2}},
        [{"a": {"b": 1}, "c": {}}],
    ),
    "numbers": (
        of(
            strict(
                positive={"type": "number", "exclusiveMinimum": 0},
                share={"type": "number", "minimum": 0, "maximum": 1},
                even={"type": "integer", "minimum": -SAFE, "maximum": SAFE, "multipleOf": 2},
                int32={"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
            )
        ),
        {"positive": 0.5, "share": 1, "even": 4, "int32": -7},
        [
            {"positive": -1, "share": 1, "even": 4, "int32": 0},
            {"positive": 1, "share": 2, "even": 4, "int32": 0},
            {"positive": 1, "share": 1, "even": 3, "int32": 0},
            {"positive": 1, "share": 1, "even": 4, "int32": 2**31},
        ],
    ),
    "lengths": (of(text(minLength=2, maxLength=3)), "日本", ["a", "abcd"]),
    "patterns": (
        of(strict(a=text(pattern="^v\\d+$"), b=text(pattern="^abc.*"), c=text(pattern="foo"))),
        {"a": "v1", "b": "abcd", "c": "a foo b"},
        [{"a": "1", "b": "abcd", "c": "foo"}, {"a": "v1", "b": "abcd", "c": "bar"}],
    ),
    "several patterns": (
        of({"allOf": [{"pattern": "^ab.*"}, {"pattern": ".*yz$"}], **STRING}),
        "ab-yz",
        ["ab", "yz"],
    ),
    "email": (of(text(format="email", pattern=EMAIL)), "a.b@example.org", ["a", "@x.org"]),
    "identifiers": (
        of(
            strict(
                uuid=text(format="uuid", pattern=UUID),
                cuid=text(format="cuid", pattern="^[cC][0-9a-z]{6,}$"),
                nanoid=text(format="nanoid", pattern="^[a-zA-Z0-9_-]{21}$"),
            )
        ),
        {
            "uuid": "123e4567-e89b-12d3-a456-426614174000",
            "cuid": "c1234567",
            "nanoid": "V1StGXR8_Z5jdHi6B-myT",
        },
        [{"uuid": "1", "cuid": "c1234567", "nanoid": "V1StGXR8_Z5jdHi6B-myT"}],
    ),
    "dates": (
        of(
            strict(
                at=text(format="date-time", pattern=f"^{DATE}T(?:{TIME}(?:Z))$"),
                on=text(format="date", pattern=f"^{DATE}$"),
                clock=text(format="time", pattern=f"^{TIME}$"),
            )
        ),
        {"at": "2026-02-03T04:05:06Z", "on": "2024-02-29", "clock": "23:59:00"},
        [{"at": "2026-02-03", "on": "2024-02-29", "clock": "23:59:00"}],
    ),
    "addresses": (
        of(
            strict(
                url=text(format="uri"),
                v4=text(format="ipv4", pattern=IPV4),
                phone=text(format="e164", pattern="^\\+[1-9]\\d{6,14}$"),
                data=text(format="base64url", contentEncoding="base64url", pattern="^[\\w-]*$"),
                mood=text(format="emoji", pattern="^[\\p{Extended_Pictographic}]+$"),
            )
        ),
        {
            "url": "https://a.example/b?c",
            "v4": "1.2.3.4",
            "phone": "+491234567",
            "data": "YQ",
            "mood": "🙂",
        },
        [
            {
                "url": "https://a.example/",
                "v4": "1.2.3.400",
                "phone": "+491234567",
                "data": "",
                "mood": "🙂",
            }
        ],
    ),
}
