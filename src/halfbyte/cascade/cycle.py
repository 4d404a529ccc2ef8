"""One decoding cycle: propose, verify, accept, commit. Plain decoding proposes nothing.

A sequence's last token is *pending*: it is known, its KV is not written.

    position      0 .. committed_len-1   committed_len   +1    +2    +3
    known         committed              pending
    proposed                                             d1    d2    d3
    target rows                          pending         d1    d2    d3
    they sample                          t1              t2    t3    t4     (of the next position)

The longest agreeing prefix and one token of the target's own are emitted (see `verify`), and the
last of them becomes pending. The target's rows overwrite a draft's KV wherever they stand; what a
rejected row wrote is overwritten before it is read.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from time import perf_counter

from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.place import Place, place_of
from halfbyte.cascade.proposer import Ask, Fused, Link, Proposer
from halfbyte.cascade.tree import Draft, TokenTree
from halfbyte.cascade.verify import Outcome, decode, draft_and_verify, verify
from halfbyte.config import Level
from halfbyte.runtime.protocol import Runtime


@dataclass(frozen=True, slots=True)
class Turn:
    """What one sequence does in a cycle; no proposer, or length 0, is plain decoding."""

    proposer: Proposer | None = None
    length: int = 0  # most tokens proposed to the target
    inner_length: int = 0  # most tokens proposed to the stage before the target, a round

    def cascade(self, target: Level) -> str:
        """What it amounts to, as a cascade string."""
        if self.proposer is None or self.length == 0:
            return str(target)
        return f"{self.proposer.stack} > {target}"


PLAIN = Turn()


@dataclass(slots=True)
class CycleReport:
    """What a cycle did and how long its parts took. Links name sequences by their index."""

    outcomes: list[Outcome]  # one per sequence, in order
    links: list[Link]  # the last link of each proposer first, then those before it
    draft_seconds: float
    verify_seconds: float
    prompt_rows: int = 0  # of prompts, that ran in the same forward
    rows: int = 0  # of that forward, those of prompts and of sequences left out by `of` too
    chunk_outcomes: Seq[Outcome] = ()
    target_forwards: int = 1

    def of(self, members: Seq[int]) -> CycleReport:
        """What some of the sequences got out of it, in order and numbered anew; costs stay those of
        all."""
        if len(members) == len(self.outcomes):
            return self
        number = {old: new for new, old in enumerate(members)}
        links = [
            replace(link, rounds=[(number[i], p, a) for i, p, a in link.rounds if i in number])
            for link in self.links
        ]
        outcomes = [self.outcomes[i] for i in members]
        return replace(self, outcomes=outcomes, links=links)

    @property
    def draft_forwards(self) -> int:
        """Forwards of every stage but the target."""
        return sum(link.forwards for link in self.links)


@dataclass(slots=True)
class _Call:
    """One proposer's part of a cycle: for which sequences, what it was asked, what it did."""

    proposer: Proposer
    link: Link
    members: list[int] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)


def run_cycle(
    runtime: Runtime,
    target: Level,
    sequences: Seq[Decoding],
    plan: Seq[Turn],
    chunks: Seq[tuple[Decoding, int]] = (),
    burst: int = 1,
) -> CycleReport:
    """Advance every sequence by 1 .. length + 1 tokens, all of them the target's own.

    The end of a prompt is part of the first cycle of its sequence. `chunks`: prompts that end
    further on, and how many rows of each run in the same forward; they get nothing.

    Where all have their pending token only, and want tokens and logprobs only, several forwards may
    be one call of the runtime: a draft by the target's own weights and its verify, or up to `burst`
    cycles with nothing proposed.
    """
    places = [place_of(sequence) for sequence in sequences]
    if chunks:
        places += [place_of(sequence, rows) for sequence, rows in chunks]
    calls = _calls(target, plan)
    bare = all([place.is_bare for place in places])
    fused = _fused(runtime, calls, len(places)) if bare and calls else None

    # Propose: one call per proposer, for all sequences whose turn names it.
    started = perf_counter()
    drafts: list[Draft] = [[] for _ in places]
    links: list[Link] = []
    for call in calls:
        links += [call.link] if fused else _propose(call, sequences, plan, drafts)
    draft_seconds = perf_counter() - started

    # Verify: pending tokens and proposals, one forward at the target level, every row sampled.
    forwards = 1
    if fused:
        outcomes = _draft_and_verify(target, places, plan, fused, links[0])
        draft_seconds += links[0].seconds
    elif calls or not bare:
        cuts = _admit(places, drafts)
        outcomes = verify(runtime, target, places, drafts)
        for i, cut in cuts:
            outcomes[i].proposed += cut
    else:
        outcomes = decode(runtime, target, places, burst)
        forwards = len(outcomes[0].tokens)
    verify_seconds = perf_counter() - started - draft_seconds
    of_chunks: list[Outcome] = []
    if chunks:
        outcomes, of_chunks = outcomes[: len(sequences)], outcomes[len(sequences) :]

    # Accept and commit: the longest agreeing prefix, then the target's own next token.
    for call in calls:
        call.link.rounds = [(i, outcomes[i].proposed, outcomes[i].accepted) for i in call.members]
        if fused is None:
            call.proposer.observe(call.asks, [outcomes[i] for i in call.members])
    for sequence, outcome in zip(sequences, outcomes, strict=True):
        sequence.commit(outcome.tokens)
    rows = sum([len(place.tokens) for place in places])
    prompt_rows = rows - len(sequences)
    rows += sum([outcome.rows for outcome in outcomes])
    times = draft_seconds, verify_seconds
    return CycleReport(outcomes, links, *times, prompt_rows, rows, of_chunks, forwards)


def _calls(target: Level, plan: Seq[Turn]) -> list[_Call]:
    """The proposers that turns name, in order, and for which sequences."""
    calls: dict[Proposer, _Call] = {}
    for i, turn in enumerate(plan):
        proposer = turn.proposer
        if turn.length > 0 and proposer is not None:
            if proposer not in calls:
                calls[proposer] = _Call(proposer, Link(f"{proposer.name} > {target}"))
            calls[proposer].members.append(i)
    return list(calls.values())


def _fused(runtime: Runtime, calls: list[_Call], sequences: int) -> Fused | None:
    """How the runtime drafts for all sequences in the call that verifies; None: it cannot."""
    if len(calls) != 1 or len(calls[0].members) != sequences:
        return None
    fused = calls[0].proposer.fused
    return fused if fused is not None and fused.runtime is runtime else None


def _propose(
    call: _Call, sequences: Seq[Decoding], plan: Seq[Turn], drafts: list[Draft]
) -> list[Link]:
    """Ask a proposer, and put what it says in the places of its sequences. The links it made."""
    call.asks = [Ask(sequences[i], plan[i].length, plan[i].inner_length) for i in call.members]
    answer = call.proposer.propose(call.asks)
    for i, draft in zip(call.members, answer.tokens, strict=True):
        drafts[i] = draft
    link = call.link
    link.forwards, link.bytes_read = answer.forwards, answer.bytes_read
    link.seconds = answer.seconds
    return [link, *(inner.renumbered(call.members) for inner in answer.inner)]


def _draft_and_verify(
    target: Level, places: Seq[Place], plan: Seq[Turn], fused: Fused, link: Link
) -> list[Outcome]:
    """Draft and verify in one call of the runtime; the link gets what the draft took."""
    run = fused.run([turn.length for turn in plan])
    outcomes, link.forwards, link.seconds = draft_and_verify(fused.runtime, target, places, run)
    link.bytes_read = link.forwards * fused.forward_bytes
    return outcomes


def _admit(places: Seq[Place], drafts: list[Draft]) -> list[tuple[int, int]]:
    """Cut drafts to what may be emitted at all; of which, and how much was cut off.

    What is cut off counts as rejected, and no row is spent on it. A shaper follows one text, so of
    a tree it gets the first path.
    """
    cuts = []
    for i, (place, draft) in enumerate(zip(places, drafts, strict=True)):
        if place.shaper is not None:
            path = draft.first_path() if isinstance(draft, TokenTree) else draft
            count = place.shaper.admit(path)
            drafts[i] = path[:count]
            cuts.append((i, len(path) - count))
    return cuts
