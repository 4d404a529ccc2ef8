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
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TypeGuard

from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.proposer import Ask, Link, Proposer
from halfbyte.cascade.tree import TokenTree
from halfbyte.cascade.verify import Draft, Outcome, Place, decode, root_of, verify
from halfbyte.config import Level
from halfbyte.proposers.drafter import Drafter
from halfbyte.runtime.protocol import Runtime


@dataclass(frozen=True, slots=True)
class Turn:
    """What one sequence does in a cycle; no proposer, or length 0, is plain decoding."""

    proposer: Proposer | None = None
    length: int = 0  # most tokens proposed to the target
    inner_length: int = 0  # most tokens proposed to the stage before the target, a round
    passes_on: bool = False  # that stage passes on what the one before it is sure of

    def cascade(self, target: Level) -> str:
        """What it amounts to, as a cascade string."""
        if self.proposer is None or self.length == 0:
            return str(target)
        return f"{self.proposer.stack} > {target}"


PLAIN = Turn()


@dataclass(slots=True)
class CycleReport:
    """What a cycle did and how long its parts took. Links name sequences by their index."""

    outcomes: list[Outcome]  # one a sequence, in order
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


def run_cycle(
    runtime: Runtime,
    target: Level,
    sequences: Seq[Decoding],
    plan: Seq[Turn],
    chunks: Seq[Place] = (),
    burst: int = 1,
) -> CycleReport:
    """Advance every sequence by 1 .. length + 1 tokens, all of them the target's own.

    `burst` > 1: nothing is proposed, no prompt runs along and no sequence wants more than tokens;
    up to so many cycles are then one call of the runtime.

    The end of a prompt is part of the first cycle of its sequence. `chunks` are parts of prompts
    that end further on; they run in the same forward and get nothing.
    """
    if not chunks and plan and all(map(_is_simple, sequences)):
        if not any(turn.length for turn in plan):
            return _run_plain(runtime, target, sequences, burst)
        drafter = plan[0].proposer
        if _drafts_for_all(drafter, runtime, plan):
            return _run_in_one_call(drafter, target, sequences, plan)

    # Propose: one call a proposer, for all sequences whose turn names it.
    started = perf_counter()
    drafts: list[Draft] = [[] for _ in sequences]
    work: list[tuple[Proposer, list[int], list[Ask], Link]] = []
    links: list[Link] = []
    for proposer, members in _by_proposer(plan).items():
        asks = [_ask(sequences[i], plan[i]) for i in members]
        answer = proposer.propose(asks)
        for i, tokens in zip(members, answer.tokens, strict=True):
            drafts[i] = tokens
        name = f"{proposer.name} > {target}"
        link = Link(name, answer.forwards, answer.bytes_read, answer.seconds)
        work.append((proposer, members, asks, link))
        links += [link, *(inner.renumbered(members) for inner in answer.inner)]
    drafted_at = perf_counter()

    # Verify: pending token and proposals, one forward at the target level, every row sampled.
    places = [_place(s) for s in sequences]
    admitted = [_admit(s, draft) for s, draft in zip(sequences, drafts, strict=True)]
    none: list[Draft] = [[] for _ in chunks]
    judged = verify(runtime, target, [*places, *chunks], [*(d for d, _ in admitted), *none])
    outcomes = judged[: len(sequences)]
    for i, (_, cut) in enumerate(admitted):
        if cut:
            outcomes[i] = replace(outcomes[i], proposed=outcomes[i].proposed + cut)
    verified_at = perf_counter()

    # Accept and commit: the longest agreeing prefix, then the target's own next token.
    for proposer, members, asks, link in work:
        link.rounds = [(i, outcomes[i].proposed, outcomes[i].accepted) for i in members]
        proposer.observe(asks, [outcomes[i] for i in members])
    for sequence, outcome in zip(sequences, outcomes, strict=True):
        sequence.commit(outcome.tokens)
    prompt_rows = sum(len(p.tokens) for p in chunks) + sum(len(p.tokens) - 1 for p in places)
    rows = prompt_rows + sum(len(kept) + 1 for kept, _ in admitted)
    seconds = drafted_at - started, verified_at - drafted_at
    chunk_outcomes = judged[len(sequences) :]
    return CycleReport(outcomes, links, *seconds, prompt_rows, rows, chunk_outcomes)


def _is_simple(sequence: Decoding) -> bool:
    """Whether it has nothing to run but its root, and wants nothing special."""
    return sequence.is_prefilled and not sequence.choice.is_special


def _run_plain(
    runtime: Runtime, target: Level, sequences: Seq[Decoding], burst: int
) -> CycleReport:
    """`run_cycle` where nothing is proposed and all are simple, in less time."""
    started = perf_counter()
    outcomes = decode(runtime, target, [root_of(s) for s in sequences], burst)
    verify_seconds = perf_counter() - started
    for sequence, outcome in zip(sequences, outcomes, strict=True):
        sequence.commit(outcome.tokens)
    forwards = len(outcomes[0].tokens)
    rows = len(outcomes)
    return CycleReport(outcomes, [], 0.0, verify_seconds, rows=rows, target_forwards=forwards)


def _drafts_for_all(
    proposer: Proposer | None, runtime: Runtime, plan: Seq[Turn]
) -> TypeGuard[Drafter]:
    """Whether a level of these weights drafts for every sequence."""
    return (
        isinstance(proposer, Drafter)
        and proposer.shares(runtime)
        and all(turn.proposer is proposer and turn.length for turn in plan)
    )


def _run_in_one_call(
    drafter: Drafter, target: Level, sequences: Seq[Decoding], plan: Seq[Turn]
) -> CycleReport:
    """`run_cycle` where `_drafts_for_all` and all are simple, in less time."""
    started = perf_counter()
    link, outcomes = drafter.draft_and_verify(sequences, [turn.length for turn in plan], target)
    verify_seconds = perf_counter() - started - link.seconds
    for sequence, outcome in zip(sequences, outcomes, strict=True):
        sequence.commit(outcome.tokens)
    rows = sum(outcome.proposed + 1 for outcome in outcomes)
    return CycleReport(outcomes, [link], link.seconds, verify_seconds, rows=rows)


def _ask(sequence: Decoding, turn: Turn) -> Ask:
    sure_length = turn.length if turn.passes_on else 0
    return Ask(sequence, turn.length, turn.inner_length, sure_length=sure_length)


def _place(sequence: Decoding) -> Place:
    """From the first position without KV, as a rule that of the pending token."""
    first = sequence.committed_len
    tokens, choice = list(sequence.tokens[first:]), sequence.choice
    expected = tokens[1:] if choice.scores_prompt else ()
    return Place(
        tokens,
        first,
        sequence.page_row,
        choice,
        expected=expected,
        tops=choice.tops,
        shaper=choice.shaper,
    )


def _admit(sequence: Decoding, draft: Draft) -> tuple[Draft, int]:
    """The proposals that may be emitted at all, and how many are left out.

    Those count as rejected, and no row is spent on them. A shaper follows one text, so of a tree it
    gets the first path.
    """
    shaper = sequence.choice.shaper
    if shaper is None:
        return draft, 0
    path = draft.first_path() if isinstance(draft, TokenTree) else draft
    count = shaper.admit(path)
    return path[:count], len(path) - count


def _by_proposer(plan: Seq[Turn]) -> dict[Proposer, list[int]]:
    """Indices of the sequences that each proposer works for, in order."""
    members: dict[Proposer, list[int]] = {}
    for i, turn in enumerate(plan):
        if turn.proposer is not None and turn.length > 0:
            members.setdefault(turn.proposer, []).append(i)
    return members
