"""The rule by which proposals are accepted. In csrc `Model::draft_and_verify` has it once more.

A judge draws a token at the root and at every proposal. A proposal is accepted iff what it follows
is, and its token is the one drawn there: so the tokens emitted are the judge's own.

    proposed           d1   d2   d3
    drawn         t1   t2   t3   t4      d1 = t1, d2 = t2, d3 != t3: two are accepted
"""

from __future__ import annotations

from collections.abc import Sequence

ROOT = -1


def accept(
    proposed: Sequence[int], drawn: Sequence[int], parents: Sequence[int] | None = None
) -> list[int]:
    """Indices of the proposals accepted, from the root down.

    `drawn[0]` belongs to the root and `drawn[i + 1]` to proposal i. `parents[i]` is the index of
    the proposal that i follows, or ROOT: parents come first, siblings differ. None: a sequence.
    """
    if parents is None:
        parents = range(ROOT, len(proposed) - 1)
    path, at = [], ROOT
    for i, (token, parent) in enumerate(zip(proposed, parents, strict=True)):
        if parent == at and token == drawn[at + 1]:
            path.append(i)
            at = i
    return path
