"""Reading ahead: a thread makes the next items while the last are worked on."""

import threading
from collections.abc import Iterable, Iterator
from queue import Empty, Queue
from typing import Any, TypeVar

T = TypeVar("T")

AHEAD = 2  # batches that are read before, and written after, the one that is being made


def prefetch(items: Iterable[T], ahead: int = AHEAD) -> Iterator[T]:
    """The items, up to `ahead` of which a thread makes in advance; its errors are raised here."""
    queue: Queue[tuple[str, Any]] = Queue(ahead)
    stopped = threading.Event()

    def fill() -> None:
        try:
            for item in items:
                queue.put(("item", item))
                if stopped.is_set():
                    return
            queue.put(("end", None))
        except BaseException as error:  # whatever it is, the reader has to know
            queue.put(("error", error))

    threading.Thread(target=fill, daemon=True).start()
    try:
        while (got := queue.get())[0] == "item":
            yield got[1]
        if got[0] == "error":
            raise got[1]
    finally:
        stopped.set()
        try:
            while True:
                queue.get_nowait()  # makes room for an item that the thread may be waiting to hand over
        except Empty:
            pass
