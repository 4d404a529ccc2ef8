"""Programs around a model: several threads, forks, ends in the middle, threads that are refused.

Each is a process of its own, since what it must not do is crash or hang.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from tests.support.talking_model import write_talking_model

HANG_SECONDS = 240
_START = """
    import asyncio, itertools, os, resource, signal, sys, threading
    from halfbyte import LLM, SamplingParams
    from halfbyte.api.async_engine import AsyncEngine
    from halfbyte.errors import HalfbyteError, StoppedError
    def load(**options):
        return LLM(sys.argv[1], cascade="w4a8 > w8a16", num_tokens=8192, **options)
    def params(count):
        return SamplingParams(max_tokens=count, ignore_eos=True, temperature=0)
    def tokens(llm, prompt, count=24):
        return llm.generate(prompt, params(count))[0].token_ids
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_talking_model(tmp_path_factory.mktemp("model") / "m"))


def ends(program: str, model: str) -> tuple[int, str]:
    """Exit status (a signal's negative) and standard error of a program."""
    source = textwrap.dedent(_START) + textwrap.dedent(program)
    ended = subprocess.run(
        [sys.executable, "-c", source, model], capture_output=True, timeout=HANG_SECONDS, text=True
    )
    return ended.returncode, ended.stderr


def test_threads_that_share_a_model_get_the_tokens_of_one(model: str) -> None:
    program = """
        llm = load(threads=2)
        other = llm.with_cascade("ngram > w8a16")
        prompts = [f"the cat {i}" for i in range(4)]
        wanted = [tokens(llm, p) for p in prompts]
        wrong = []
        def work(i):
            for turn in range(4):
                if turn % 2:
                    got = tokens(llm if i % 2 else other, prompts[i])
                else:
                    got = [t for c in llm.stream(prompts[i], params(24)) for t in c.token_ids]
                if list(got) != list(wanted[i]):
                    wrong.append((i, turn))
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        sys.exit(repr(wrong) if wrong else 0)
    """
    assert ends(program, model) == (0, "")


def test_streams_of_one_thread_may_take_turns(model: str) -> None:
    program = """
        llm = load(threads=2)
        wanted = [tokens(llm, p) for p in ("the cat", "a dog")]
        streams = [llm.stream(p, params(24)) for p in ("the cat", "a dog")]
        got = [[], []]
        for pair in itertools.zip_longest(*streams):
            for so_far, chunk in zip(got, pair):
                so_far += chunk.token_ids if chunk else []
        assert list(map(list, wanted)) == got, (wanted, got)
    """
    assert ends(program, model) == (0, "")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_child_of_a_fork_decodes(model: str, threads: int) -> None:
    program = f"""
        llm = load(threads={threads})
        wanted = tokens(llm, "the cat")
        for _ in range(3):
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                same = tokens(llm, "the cat") == wanted == tokens(llm, "the cat")
                os._exit(0 if same else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert tokens(llm, "the cat") == wanted
    """
    assert ends(program, model) == (0, "")


def test_a_child_forked_while_another_thread_decodes_decodes_or_is_told(model: str) -> None:
    program = """
        llm = load(threads=2)
        wanted = tokens(llm, "the cat")
        ended = False
        def work():
            while not ended:
                tokens(llm, "a dog", 40)
        thread = threading.Thread(target=work)
        thread.start()
        for _ in range(20):
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                try:
                    same = tokens(llm, "the cat") == wanted
                except StoppedError as error:
                    same = "fork" in str(error)
                os._exit(0 if same else 1)
            assert os.waitpid(child, 0)[1] == 0
        ended = True
        thread.join()
        assert tokens(llm, "the cat") == wanted
    """
    assert ends(program, model) == (0, "")


def test_an_engine_of_the_parent_refuses_requests_of_a_child(model: str) -> None:
    program = """
        async def main():
            async with AsyncEngine(load(threads=2)) as engine:
                child = os.fork()
                if child == 0:
                    try:
                        engine.submit([1, 2, 3], params(5))
                    except StoppedError:
                        os._exit(0)
                    os._exit(1)
                assert os.waitpid(child, 0)[1] == 0
                assert (await engine.submit([1, 2, 3], params(5)).completion()).token_ids
        asyncio.run(main())
    """
    assert ends(program, model) == (0, "")


@pytest.mark.parametrize("attempt", range(3))
def test_a_program_may_end_while_an_engine_decodes(model: str, attempt: int) -> None:
    program = """
        async def main():
            engine = AsyncEngine(load(threads=2))
            await engine.start()
            stream = engine.submit([1, 2, 3], params(2000))
            async for chunk in stream:
                if chunk.token_ids:
                    sys.exit(7)
        asyncio.run(main())
    """
    assert ends(program, model) == (7, "")


@pytest.mark.parametrize("attempt", range(3))
def test_a_program_may_end_while_its_own_thread_decodes(model: str, attempt: int) -> None:
    program = """
        llm = load(threads=2)
        began = threading.Event()
        def work():
            while True:
                for chunk in llm.stream("the cat", params(200)):
                    began.set()
        threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
        [t.start() for t in threads]
        began.wait()
        sys.exit(7)
    """
    assert ends(program, model) == (7, "")


def test_a_function_that_runs_at_exit_may_still_decode(model: str) -> None:
    program = """
        import atexit
        done = []
        def at_exit():
            print(len(tokens(llm, "the cat")), file=sys.stderr)
        atexit.register(at_exit)
        llm = load(threads=2)
        sys.exit(7)
    """
    assert ends(program, model) == (7, "24\n")


def test_threads_that_cannot_be_had_are_one_line(model: str) -> None:
    program = """
        llm = load(threads=2)
        size = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30), size + (1 << 30)))
        try:
            load(threads=256)
        except HalfbyteError as error:
            assert "256 threads" in str(error), error
        else:
            sys.exit("256 threads were had")
        assert tokens(llm, "the cat")
    """
    assert ends(program, model) == (0, "")
