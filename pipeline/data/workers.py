"""Work on many items in several processes, each of which may die without taking the run along.

Knows nothing about pictures. Results come in any order; who needs an order sorts.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.util import Finalize
from typing import Protocol, TypeVar

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
# Items handed out ahead, a worker: keeps workers busy, and few are suspects when one dies.
AHEAD = 2


class Worker(Protocol[T_contra]):
    """Does the work; made once a process."""

    def work(self, item: T_contra) -> None:
        """Do one item. Leaves its result behind by itself (in a file)."""

    def close(self) -> None:
        """Called when the process ends."""


# The process's own worker. Only worker processes have one: a process pool has no other place.
_workers: list[Worker] = []


def run_all(
    items: Sequence[T],
    make_worker: Callable[[], Worker[T]],
    processes: int,
    on_crash: Callable[[T], None],
    stop: Callable[[], bool],
) -> Iterator[None]:
    """Do every item; yields once an item, when it is done.

    Args:
        items: what is to be done; picklable, as `make_worker` must be (unless processes is 0).
        make_worker: called once in each process.
        processes: how many; 0 works in this process.
        on_crash: called with an item that killed the process which worked on it.
        stop: asked between items; once it is true nothing new is begun, and the iterator ends when
            what is at hand is done.
    """
    if processes == 0:
        yield from _run_here(items, make_worker, stop)
        return
    waiting = list(items)
    while waiting and not stop():
        suspects: list[T] = []
        yield from _run_pool(waiting, make_worker, processes, suspects, stop)
        # A process died over one of the items that were at hand; each is tried alone.
        for suspect in suspects:
            if stop():
                return
            killed: list[T] = []
            yield from _run_pool([suspect], make_worker, 1, killed, stop)
            if killed:
                on_crash(suspect)
                yield


def _run_here(
    items: Sequence[T], make_worker: Callable[[], Worker[T]], stop: Callable[[], bool]
) -> Iterator[None]:
    with contextlib.closing(make_worker()) as worker:
        for item in items:
            if stop():
                return
            worker.work(item)
            yield


def _run_pool(
    waiting: list[T],
    make_worker: Callable[[], Worker[T]],
    processes: int,
    suspects: list[T],
    stop: Callable[[], bool],
) -> Iterator[None]:
    """Work off `waiting` until it is empty or a process dies; then `suspects` was being done."""
    # Fresh processes rather than forks: this one may have threads, which a fork would break.
    pool = ProcessPoolExecutor(
        min(processes, len(waiting)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(make_worker,),
    )
    waiting.reverse()
    at_hand: dict[Future[None], T] = {}
    try:
        while at_hand or (waiting and not stop()):
            while waiting and len(at_hand) < AHEAD * processes and not stop():
                item = waiting.pop()
                with _ctrl_c_held():  # the first one starts the processes
                    at_hand[pool.submit(_work, item)] = item
            done, _ = wait(at_hand, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                del at_hand[future]
                yield
    except BrokenProcessPool:
        suspects.extend(at_hand.values())
    finally:
        waiting.reverse()
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Hold Ctrl-C back here, and in processes started meanwhile until they say otherwise.

    A worker needs seconds to import what it works with, and Ctrl-C would end it with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(make_worker: Callable[[], Worker]) -> None:
    """Set up a worker process."""
    # Ctrl-C reaches every process of a terminal; stopping is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    worker = make_worker()
    _workers.append(worker)
    Finalize(worker, worker.close, exitpriority=10)


def _work(item: object) -> None:
    _workers[-1].work(item)


def _end_with_parent() -> None:
    """A killed parent cannot end its processes, so they watch it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
