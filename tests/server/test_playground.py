"""The page is self-contained, and its policy lets nothing else run."""

from __future__ import annotations

import base64
import hashlib
import re

import httpx
import pytest

from halfbyte import LLM
from tests.server.running import serving


def _policy(answer: httpx.Response) -> dict[str, str]:
    parts = answer.headers["content-security-policy"].split("; ")
    return dict(part.split(" ", 1) for part in parts)


def test_only_the_pages_own_script_and_style_may_run(http: httpx.Client) -> None:
    answer = http.get("/")
    policy = _policy(answer)
    assert answer.headers["content-type"].startswith("text/html")
    assert policy["default-src"] == "'none'"
    for tag, name in (("script", "script-src"), ("style", "style-src")):
        bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digests = [hashlib.sha256(body.encode()).digest() for body in bodies]
        allowed = [f"'sha256-{base64.b64encode(d).decode()}'" for d in digests]
        assert policy[name].split() == allowed
        assert len(bodies) == 1


def test_the_page_loads_nothing_and_makes_no_markup_from_text(http: httpx.Client) -> None:
    page = http.get("/").text
    # The one address in it is the name of the SVG format.
    assert set(re.findall(r"https?://[^\s'\"]+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|script|img|iframe)[^>]+(src|href)=.(?!data:)", page)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", page)
    assert not re.search(r"<[^>]+\s(style|on\w+)=", page)  # the policy would refuse them


def test_the_page_can_be_left_out(talking_llm: LLM) -> None:
    with serving(talking_llm, playground=False) as server, server.client() as http:
        assert http.get("/").status_code == 404


@pytest.mark.parametrize("path", ["/../app.py", "/page/app.js", "/static/x", "//etc/passwd"])
def test_no_file_is_reached_by_a_path(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 404
    assert "error" in answer.json()
