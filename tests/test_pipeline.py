"""Items made in another thread."""

import threading

import pytest

from ft.separate.pipeline import prefetch


def test_items_come_in_order():
    assert list(prefetch(range(100), 2)) == list(range(100))
    assert list(prefetch([], 1)) == []


def test_items_are_made_in_another_thread_and_not_far_ahead():
    threads, made = set(), []

    def items():
        for number in range(50):
            threads.add(threading.current_thread())
            made.append(number)
            yield number

    stream = prefetch(items(), 2)
    for number in stream:
        assert len(made) <= number + 5  # the one read, two waiting, one in hand
    assert threading.current_thread() not in threads


def test_an_error_comes_in_its_place():
    def items():
        yield 1
        raise ValueError("broken")

    stream = prefetch(items(), 3)
    assert next(stream) == 1
    with pytest.raises(ValueError, match="broken"):
        next(stream)


def test_leaving_early_closes_the_source_and_its_thread():
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    before = threading.active_count()
    stream = prefetch(items(), 1)
    next(stream)
    stream.close()
    assert closed.is_set() and threading.active_count() == before
