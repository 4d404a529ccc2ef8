"""Checked fields of a body -> `SamplingParams`."""

from __future__ import annotations

from typing import Any

from halfbyte.errors import HalfbyteError
from halfbyte.sampling.params import SamplingParams
from halfbyte.server.errors import bad_request
from halfbyte.server.schema.sampling import PARAMETERS, SamplingBody

_GREEDY_BELOW = 1e-5
_SEED_MODULUS = 2**64


def sampling_params(body: SamplingBody, *, max_tokens: int, **extra: Any) -> SamplingParams:
    """ApiError 400 where a value cannot be used. `extra`: further fields of SamplingParams."""
    values: dict[str, Any] = {"max_tokens": max_tokens}
    values |= {name: value for name, value in extra.items() if value is not None}
    for name in PARAMETERS:  # null is the default
        value = getattr(body, name)
        if value is not None:
            values[name] = value
    if values.get("temperature", 1.0) < _GREEDY_BELOW:
        values["temperature"] = 0.0
    if body.seed is not None:
        values["seed"] = body.seed % _SEED_MODULUS
    if body.stop:
        values["stop"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    if body.stop_token_ids:
        values["stop_token_ids"] = tuple(body.stop_token_ids)
    if body.logit_bias:
        values["logit_bias"] = _biases(body.logit_bias)
    try:
        return SamplingParams.from_dict(values)
    except HalfbyteError as error:
        raise bad_request(str(error), param=error.what) from error


def _biases(given: dict[str, float]) -> dict[int, float]:
    bad = next((key for key in given if not (key.isascii() and key.isdigit())), None)
    if bad is not None:
        raise bad_request(
            f"logit_bias: got key {bad[:40]!r}, expected token ids", param="logit_bias"
        )
    return {int(key): value for key, value in given.items()}
