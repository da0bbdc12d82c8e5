"""The queue: order, cancelling, limits, errors, models."""

import asyncio
import threading
import time

import pytest

from hdpainter.web.engine import NO_MEMORY, Engine, Order
from hdpainter.web.session import Session, Sessions, duration, status
from ldm.util import UserError


@pytest.fixture
def engine():
    """An engine whose painters are the names of their models; `loads` has the names in the order of loading."""
    loads = []

    def load(model):
        if model == "missing":
            raise UserError("checkpoint missing.ckpt is not there")
        loads.append(model)
        return model

    engine = Engine(load, queue=4, per_owner=2)
    engine.loads = loads
    yield engine
    engine.close()


def wait(order: Order, seconds: float = 20) -> Order:
    end = time.monotonic() + seconds
    while not order.finished:
        assert time.monotonic() < end, "the order does not end"
        time.sleep(0.01)
    return order


class Blocked:
    """Work that goes on until `go` is set or it is stopped."""

    def __init__(self):
        self.go, self.started, self.ended = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, painter, order):
        self.started.set()
        try:
            order.begin("waiting")
            while not self.go.wait(0.01):
                order.step("inpainting", 1, 2)
        finally:
            self.ended.set()


def test_jobs_run_one_at_a_time_in_order_and_models_are_swapped(engine):
    seen, at_once = [], []

    def work(painter, order):
        at_once.append(painter)
        seen.append((painter, order.title))
        time.sleep(0.01)
        assert len(at_once) == 1
        at_once.pop()
        order.deliver(order.title)

    orders = []
    for number, model in enumerate("aabba"):
        orders.append(engine.submit(Order(f"order {number}", model, work, owner=str(number))))
        if number == 3:
            wait(orders[0])
    assert [wait(order).state for order in orders] == ["done"] * 5
    assert seen == [("a", "order 0"), ("a", "order 1"), ("b", "order 2"), ("b", "order 3"), ("a", "order 4")]
    assert engine.loads == ["a", "b", "a"]
    assert [order.delivered for order in orders] == [[order.title] for order in orders]


def test_cancelling_counts_at_once_and_stops_the_work_at_its_next_step(engine):
    first, second = Blocked(), Blocked()
    running = engine.submit(Order("first", "a", first))
    waiting = engine.submit(Order("second", "a", second))
    assert first.started.wait(20)
    assert (engine.ahead(running), engine.ahead(waiting)) == (0, 1)
    engine.cancel(waiting)
    assert waiting.state == "cancelled" and engine.ahead(waiting) == 0
    engine.cancel(running)
    assert running.state == "cancelled"
    assert first.ended.wait(20)
    after = wait(engine.submit(Order("after", "a", lambda painter, order: None)))
    assert after.state == "done" and not second.started.is_set()
    assert running.state == "cancelled"  # its end did not overwrite that


def test_the_queue_is_bounded(engine):
    blocked = Blocked()
    engine.submit(Order("running", "a", blocked, owner="x"))
    assert blocked.started.wait(20)
    for owner in ("x", "x"):
        engine.submit(Order("waiting", "a", lambda painter, order: None, owner=owner))
    with pytest.raises(UserError, match="2 of your jobs are waiting"):
        engine.submit(Order("too many", "a", lambda painter, order: None, owner="x"))
    for owner in ("y", "z"):
        engine.submit(Order("waiting", "a", lambda painter, order: None, owner=owner))
    with pytest.raises(UserError, match="4 jobs are waiting"):
        engine.submit(Order("too many", "a", lambda painter, order: None, owner="w"))
    blocked.go.set()


def test_one_client_with_many_tabs_gets_half_of_the_queue(engine):
    blocked = Blocked()
    engine.submit(Order("a", "mini", blocked))
    assert blocked.started.wait(20)
    for tab in range(2):
        engine.submit(Order("b", "mini", blocked, owner=f"tab {tab}", client="anna"))
    with pytest.raises(UserError, match="half of the queue is yours"):
        engine.submit(Order("c", "mini", blocked, owner="tab 2", client="anna"))
    engine.submit(Order("d", "mini", blocked, owner="tab 3", client="berta"))
    blocked.go.set()


def test_a_tab_is_remembered_with_its_photo_and_invented_ones_drive_out_their_own():
    sessions = Sessions(most=3)
    anna = sessions.of("a", "anna")
    assert sessions.of("a", "anna") is not anna  # it has no photo yet
    sessions.remember(anna)
    for number in range(9):
        sessions.of(f"nothing {number}", "eve")
        sessions.remember(sessions.of(f"invented {number}", "eve"))
    assert sessions.of("a", "anna") is anna and len(sessions.all()) == 3
    assert sessions.of("a", "eve") is not anna  # a key is no password


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("the mask is empty: paint it"), "the mask is empty: paint it"),
        (MemoryError(), NO_MEMORY),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            NO_MEMORY,
        ),
        (ZeroDivisionError("division by zero"), "the program failed: ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_is_told_and_the_next_job_works(engine, error, message, capsys):
    def fail(painter, order):
        raise error

    bad, good = Order("bad", "a", fail), Order("good", "a", lambda painter, order: order.deliver(1))
    engine.submit(bad)
    engine.submit(good)
    assert (wait(bad).state, bad.message) == ("failed", message)
    assert wait(good).state == "done"


def test_a_model_that_cannot_be_loaded_fails_its_job_only(engine):
    bad = wait(engine.submit(Order("bad", "missing", lambda painter, order: None)))
    assert (bad.state, bad.message) == ("failed", "checkpoint missing.ckpt is not there")
    assert wait(engine.submit(Order("good", "a", lambda painter, order: None))).state == "done"


def test_a_job_ends_at_its_time_limit(engine):
    order = wait(engine.submit(Order("long", "a", Blocked(), seconds=0.1)))
    assert order.state == "failed" and "longer than the limit" in order.message


def test_watching_sees_every_place_in_the_queue_and_the_end(engine):
    blocked = Blocked()
    engine.submit(Order("running", "a", blocked))
    assert blocked.started.wait(20)
    order = engine.submit(Order("watched", "a", lambda painter, order: order.deliver(1)))
    seen = []

    async def watch():
        async for _ in engine.watch(order):
            seen.append((order.state, engine.ahead(order)))
            blocked.go.set()

    asyncio.run(watch())
    assert seen[0] == ("waiting", 1) and seen[-1] == ("done", 0)


def test_progress_and_the_time_left():
    order = Order("drafts", "a", lambda painter, order: None, parts=2)
    assert order.fraction == 0 and order.seconds_left is None
    order.start()
    order.begin("draft 1 of 2")
    order.step("inpainting", 5, 10)
    assert order.fraction == 0.25
    time.sleep(0.05)
    passed = time.monotonic() - order._started
    assert order.seconds_left == pytest.approx(3 * passed, rel=0.2)
    order.begin("draft 2 of 2")
    assert order.fraction == 0.5


def test_the_status_says_what_happens_and_escapes_it(engine):
    session = Session("tab")
    assert "Choose a photo" in status(session, engine)
    blocked = Blocked()
    other = engine.submit(Order("other", "a", blocked))
    assert blocked.started.wait(20)
    order = engine.submit(Order("Drafts", "a", lambda painter, order: None, owner="tab"))
    session.add(order)
    assert "in the queue, 1 job comes first" in status(session, engine)
    blocked.go.set()
    wait(other)
    wait(order)
    assert "Drafts: done in" in status(session, engine)
    session.error = "<script>alert(1)</script>"
    told = status(session, engine)
    assert "&lt;script&gt;" in told and "<script>" not in told and 'role="alert"' in told


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (89, "89 s"), (300, "5 min"), (4800, "1 h 20 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
