"""The queue of orders and the one thread that paints.

A painter is not made for several threads, and two models may not fit into memory together. So all work on models
is done by a single thread, one order after the other as they arrived; nobody else ever holds a painter.
"""

import asyncio
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from hdpainter.memory import out_of_memory, release_memory
from hdpainter.web.messages import told
from ldm.util import UserError

if TYPE_CHECKING:
    from hdpainter.pipeline import HDPainter  # brings the networks, which take longer to import than the page

POLL_SECONDS = 0.1
NO_MEMORY = (
    "there is not enough memory for this picture: choose a smaller size under Advanced, a smaller model, "
    "or no super-resolution"
)

OrderState = Literal["waiting", "running", "done", "failed", "cancelled"]
Loader = Callable[[str], "HDPainter"]  # from a model's name
Work = Callable[["HDPainter", "Order"], None]


class Cancelled(Exception):
    """Ends the work of a cancelled order, from inside."""


class Order:
    """A piece of work on a model, and how far it is.

    title: what it makes, for people; without one nobody waits for it. model: name of the model that it needs.
    work: is given the painter and this order; it calls `begin` for each of its `parts`, `step` after each
    sampling step and `deliver` for each thing made. seconds: time limit. owner: the tab that wants it, or whoever
    calls the API; client: the login or address behind it.

    about: what it is made from, if there is such a thing. receive: gets each thing made, in the engine's thread.

    Written by the engine's thread, to be read by any: `state`, `message` (why it failed), `remark` (what else
    there is to know when it is done), `delivered`.
    """

    def __init__(
        self,
        title: str,
        model: str,
        work: Work,
        parts: int = 1,
        owner: str = "",
        client: str = "",
        seconds: float = float("inf"),
        about: Any = None,
        receive: Callable[[Any], None] = lambda made: None,
    ):
        self.title, self.model, self.work, self.owner, self.client = title, model, work, owner, client
        self.parts, self.seconds, self.about, self.receive = parts, seconds, about, receive
        self.state: OrderState = "waiting"
        self.message = ""
        self.remark = ""
        self.delivered: list[Any] = []
        self.version = 0  # grows with every change
        self.label = ""
        self.steps = (0, 0)
        self.took = 0.0
        self._part = 0
        self._started = 0.0
        self._cancelled = threading.Event()

    @property
    def finished(self) -> bool:
        return self.state not in ("waiting", "running")

    @property
    def fraction(self) -> float:
        """How much is done, 0 to 1."""
        step, steps = self.steps
        return (max(self._part - 1, 0) + (step / steps if steps else 0)) / self.parts

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the time that the steps took so far; None before the first."""
        if not self._started or self.fraction == 0:
            return None
        return (time.monotonic() - self._started) * (1 - self.fraction) / self.fraction

    def start(self) -> None:
        """The model is there, the work begins."""
        self._started = time.monotonic()
        self.say("starting")

    def say(self, label: str) -> None:
        """What is being done now, in a few words."""
        self.label = label
        self._check()

    def begin(self, label: str) -> None:
        """The next part begins."""
        self._part += 1
        self.steps = (0, 0)
        self.say(label)

    def step(self, stage: str, step: int, steps: int) -> None:
        """The `progress` callback of HDPainter. Raises Cancelled, and UserError after the time limit."""
        self.steps = (step, steps)
        self._check()

    def deliver(self, made: Any) -> None:
        """Hand out something that is ready."""
        self.delivered.append(made)
        self.receive(made)
        self._check()

    def cancel(self) -> None:
        """The owner no longer wants it. It counts as cancelled at once, and its work stops at the next step."""
        self._cancelled.set()
        self.finish("cancelled")

    def finish(self, state: OrderState, message: str = "") -> None:
        """Ends the order, unless it has ended already."""
        if not self.finished:
            self.took = time.monotonic() - self._started if self._started else 0.0
            self.message, self.state = message, state
        self.version += 1

    def _check(self) -> None:
        self.version += 1
        if self._cancelled.is_set():
            raise Cancelled
        if time.monotonic() - self._started > self.seconds:
            raise UserError(
                f"it took longer than the limit of {self.seconds / 60:g} minutes: choose fewer steps or drafts, "
                "or a smaller size"
            )


class Engine:
    """Runs orders one at a time, first come, first served.

    load: makes the painter of a model's name; one model is held at a time, until an order wants another.
    queue, per_owner: how many orders may wait in all and of one owner; of one client, with all tabs, half of all.
    """

    def __init__(self, load: Loader, queue: int = 64, per_owner: int = 8):
        self._load, self._queue, self._per_owner = load, queue, per_owner
        self._waiting: deque[Order] = deque()
        self._running: Order | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._loaded: tuple[str, HDPainter] | None = None  # touched by the thread only
        self._thread = threading.Thread(target=self._run, daemon=True, name="painter")
        self._thread.start()

    def submit(self, order: Order) -> Order:
        """Put an order at the end of the queue. Raises UserError when that is full."""
        with self._changed:
            if len(self._waiting) >= self._queue:
                raise UserError(f"{len(self._waiting)} jobs are waiting already; try again in a while")
            if sum(other.owner == order.owner for other in self._waiting) >= self._per_owner:
                raise UserError(f"{self._per_owner} of your jobs are waiting already; let one finish first")
            if (
                order.client
                and 2 * sum(other.client == order.client for other in self._waiting) >= self._queue
            ):
                raise UserError("half of the queue is yours already; let one of your jobs finish first")
            self._waiting.append(order)
            self._changed.notify_all()
        return order

    def ahead(self, order: Order) -> int:
        """How many orders that people wait for come before this one, the running one included; 0 when it runs."""
        with self._changed:
            if order not in self._waiting:
                return 0
            before = [*islice(self._waiting, self._waiting.index(order)), *filter(None, [self._running])]
            return sum(bool(other.title) for other in before)

    def cancel(self, order: Order) -> None:
        """Take an order out of the queue, or stop it at its next step."""
        with self._changed:
            if order in self._waiting:
                self._waiting.remove(order)
            order.cancel()

    async def watch(self, order: Order) -> AsyncIterator[None]:
        """Wakes whenever the order or its place in the queue changed, for the last time when it has ended."""
        seen = None
        while True:
            finished = order.finished
            now = (order.version, self.ahead(order))
            if now != seen or finished:
                seen = now
                yield
            if finished:
                return
            await asyncio.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Cancel everything and wait for the thread, which stops at the running order's next step."""
        with self._changed:
            self._closing = True
            for order in (*self._waiting, *([self._running] if self._running else [])):
                order.cancel()
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._running = None
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                order = self._running = self._waiting.popleft()
                order.state = "running"
            self._do(order)

    def _do(self, order: Order) -> None:
        try:
            painter = self._painter(order)
            order.start()
            order.work(painter, order)
            order.finish("done")
            return
        except Cancelled:
            order.finish("cancelled")
        except UserError as error:
            order.finish("failed", told(error))
        except Exception as error:  # the server goes on, whatever happens to one order
            traceback.print_exc()
            order.finish(
                "failed", NO_MEMORY if out_of_memory(error) else f"the program failed: {told(error)}"
            )
        release_memory()  # outside the except blocks: an error holds on to the memory of the failed try

    def _painter(self, order: Order) -> "HDPainter":
        if self._loaded is None or self._loaded[0] != order.model:
            order.label = f"loading the model {order.model}"
            order.version += 1
            self._loaded = None
            release_memory()
            self._loaded = (order.model, self._load(order.model))
        return self._loaded[1]
