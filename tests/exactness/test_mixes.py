"""Any mix of sequences, chunks, pages, threads and drafts gives each sequence its plain output."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halfbyte.config import Level
from tests.exactness.driver import Driver, Request
from tests.exactness.plain import PAIRS, SAMPLERS, outcome, plain, prompt_of
from tests.support.runtimes import NATIVE_KINDS, shared
from tests.support.tiny_models import MODELS

# Around pages of 16 and 64 and the attention chunk of 256.
PROMPT_LENGTHS = [1, 2, 15, 16, 17, 40, 63, 64, 65, 250, 256, 300]


@st.composite
def _requests(draw: st.DrawFn) -> tuple[str, int, str, int, Request]:
    """Sampler, prompt length, …: enough to decode the same thing plainly."""
    sampler = draw(st.sampled_from(sorted(SAMPLERS)))
    prompt_len, seed = draw(st.sampled_from(PROMPT_LENGTHS)), draw(st.integers(0, 3))
    lengths = draw(st.lists(st.integers(0, 8), min_size=1, max_size=4))
    request = Request(
        prompt=[seed, prompt_len],  # replaced once the model is known
        max_tokens=draw(st.integers(1, 20)),
        sampling=SAMPLERS[sampler],
        draft_length=lambda cycle: lengths[cycle % len(lengths)],
        chunk=draw(st.sampled_from([1, 5, 16, 48, 100, 512])),
    )
    return sampler, prompt_len, f"lengths {lengths}", seed, request


def _check(
    kind: str,
    model: str,
    pair: tuple[str, str],
    page_size: int,
    threads: int,
    drawn: list[tuple[str, int, str, int, Request]],
) -> None:
    runtime = shared(kind, model, page_size=page_size, threads=threads)
    if not runtime.supports(Level.parse(pair[0])):
        pair = PAIRS[1]
    requests = []
    for _, prompt_len, _, seed, request in drawn:
        request.prompt = prompt_of(model, prompt_len, seed)
        requests.append(request)
    Driver(runtime, Level.parse(pair[0]), Level.parse(pair[1])).run(requests)
    # Before plain decoding, which may share this runtime and its pages.
    outcomes = [outcome(runtime, request) for request in requests]
    for request, got, (sampler, prompt_len, _, seed, _) in zip(
        requests, outcomes, drawn, strict=True
    ):
        expected = plain(
            kind, model, pair[0], SAMPLERS[sampler], prompt_len, seed, request.max_tokens
        )
        assert got == expected


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(NATIVE_KINDS),
    model=st.sampled_from(sorted(MODELS)),
    pair=st.sampled_from(PAIRS),
    page_size=st.sampled_from([16, 32, 64]),
    threads=st.integers(1, 3),
    drawn=st.lists(_requests(), min_size=1, max_size=5),
)
def test_every_sequence_of_a_native_batch_decodes_as_alone(
    kind: str,
    model: str,
    pair: tuple[str, str],
    page_size: int,
    threads: int,
    drawn: list[tuple[str, int, str, int, Request]],
) -> None:
    _check(kind, model, pair, page_size, threads, drawn)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    model=st.sampled_from(["llama", "mistral-window", "qwen2-bias-tied-offsets"]),
    pair=st.sampled_from(PAIRS),
    page_size=st.sampled_from([16, 32, 64]),
    drawn=st.lists(_requests(), min_size=1, max_size=3),
)
def test_every_sequence_of_a_reference_batch_decodes_as_alone(
    model: str,
    pair: tuple[str, str],
    page_size: int,
    drawn: list[tuple[str, int, str, int, Request]],
) -> None:
    _check("reference", model, pair, page_size, 1, drawn)
