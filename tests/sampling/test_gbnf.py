"""GBNF: what llama.cpp's grammars say, said in Lark; refusals name the place."""

from __future__ import annotations

import pytest

from halfbyte.errors import ArgumentError
from halfbyte.sampling.gbnf import is_gbnf, lark_of

JSON = r"""
# llama.cpp's grammars/json.gbnf in its own notation
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"""
ARITHMETIC = 'root ::= (expr "=" term "\\n")+\nexpr ::= term ([-+*/] term)*\nterm ::= ident | num | "(" expr ")"\nident ::= [a-z] [a-z0-9_]*\nnum ::= [0-9]+'  # noqa: E501
CASES: list[tuple[str, list[str], list[str]]] = [
    ('root ::= "a"{5,5}', ["aaaaa"], ["aaaa", "aaaaaa"]),
    ('root ::= "a"{2}', ["aa"], ["a", "aaa"]),
    ('root ::= "a"{2,}', ["aa", "aaaa"], ["a"]),
    (
        'root ::= greeting " " name\ngreeting ::= "hello"\nname ::= [b] "ob"',
        ["hello bob"],
        ["hello"],
    ),
    ('root ::= [a-z]* "end"', ["enxend", "end", "endend"], ["en"]),
    ('root ::= one |\n two\none ::= "1" # first\ntwo ::= "2"', ["1", "2"], ["12"]),
    ('root ::= "a"\n  | "b"\n\n  | start-1\nstart-1 ::= "c"', ["a", "b", "c"], ["ab"]),
    ('root ::= "é\\u00e9\\U0001F642\\x41\\n\\"\\\\"', ['éé🙂A\n"\\'], ["é"]),
    (r"root ::= [^\n\]]+ [\]/-] .", ["ab]x", "a-\n", "//é"], ["a\n]x", "]"]),
    ('root ::= "(" root ")" | ""', ["", "()", "((()))"], ["(", "())"]),
    ('root ::= start\nstart ::= ("x" | "y" "z")+ end?\nend ::= "."', ["xyz.", "x"], ["y", "."]),
    (
        JSON,
        ['{"a": [1, 2.5e3, {"b\\u00e9": null}], "c": "x"}', "{}", '{ "a":\ntrue }'],
        ["[1]", "{a}"],
    ),
    (ARITHMETIC, ["a+(b*2)=c\n", "1=1\n2=2\n"], ["a+=b\n", "1=1"]),
]


@pytest.mark.parametrize(("grammar", "texts", "others"), CASES)
def test_texts_of_a_grammar_are_those_of_its_translation(
    grammar: str, texts: list[str], others: list[str]
) -> None:
    library = pytest.importorskip("llguidance")
    assert is_gbnf(grammar)
    tokenizer = library.LLTokenizer("byte")
    start = library.LLMatcher(tokenizer, lark_of(grammar), log_level=0)
    assert not start.is_error(), start.get_error()
    for text in [*texts, *others]:
        matcher, data = start.deep_copy(), list(text.encode())
        whole = matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()
        assert whole == (text in texts), text


@pytest.mark.parametrize(
    ("grammar", "told"),
    [
        ('a ::= "b"', "no rule root"),
        ("root ::= other", "no rule 'other'"),
        ('root ::= "a', "its end"),
        ("root ::= [a", "its end"),
        ("root ::= [", "its end"),
        ("root ::= []", "between"),
        ("root ::= [z-a]", "from low to high"),
        ('root ::= "a"{3,1}', "from few to many"),
        ('root ::= "a"{9999999}', "from few to many"),
        ('root ::= "a"{,}', "{m,n}"),
        ('root ::= ("a"', "')'"),
        ('root ::= "a")', "the end of the rule"),
        ('root ::= "a" root ::= "b"', "line 1"),
        (r'root ::= "\q"', "one of"),
        (r'root ::= "\ud800"', "line 1"),
        ("root ::= <think>", "the end of the rule"),
        ("root ::= " + "(" * 1000 + '"a"' + ")" * 1000, "parentheses"),
        ('root ::= "a"\n::= "b"', "line 2"),
        ('root := "a"\nb ::= "c"', "'::='"),
    ],
)
def test_what_is_no_grammar_is_refused_where_it_goes_wrong(grammar: str, told: str) -> None:
    with pytest.raises(ArgumentError, match=r"structured_outputs\.grammar") as error:
        lark_of(grammar)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("grammar", ['start: "a" "b"', 'start: A\nA: "x ::= y"', "start: /a::=b/"])
def test_larks_own_notation_stays(grammar: str) -> None:
    assert not is_gbnf(grammar)


def test_long_chains_take_little_time() -> None:
    chain = "\n".join(f'r{i} ::= "(" r{i + 1} ")"' for i in range(4000))
    text = lark_of(f'root ::= r0\n{chain}\nr4000 ::= "x"')
    assert text.count("\n") > 4000
    assert lark_of(f'root ::= r0\n{chain}\nr4000 ::= "x" | r0').count(" r1\n") <= 1
