"""The queue: order, cancelling, limits, errors, models."""

import asyncio
import threading
import time

import pytest

from hdpainter.web.engine import NO_MEMORY, Engine, Job
from hdpainter.web.session import Session, duration, status
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


def wait(job: Job, seconds: float = 20) -> Job:
    end = time.monotonic() + seconds
    while not job.finished:
        assert time.monotonic() < end, "the job does not end"
        time.sleep(0.01)
    return job


class Blocked:
    """Work that goes on until `go` is set or it is stopped."""

    def __init__(self):
        self.go, self.started, self.ended = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, painter, job):
        self.started.set()
        try:
            job.begin("waiting")
            while not self.go.wait(0.01):
                job.step("inpainting", 1, 2)
        finally:
            self.ended.set()


def test_jobs_run_one_at_a_time_in_order_and_models_are_swapped(engine):
    seen, at_once = [], []

    def work(painter, job):
        at_once.append(painter)
        seen.append((painter, job.title))
        time.sleep(0.01)
        assert len(at_once) == 1
        at_once.pop()
        job.deliver(job.title)

    jobs = []
    for number, model in enumerate("aabba"):
        jobs.append(engine.submit(Job(f"job {number}", model, work, owner=str(number))))
        if number == 3:
            wait(jobs[0])
    assert [wait(job).state for job in jobs] == ["done"] * 5
    assert seen == [("a", "job 0"), ("a", "job 1"), ("b", "job 2"), ("b", "job 3"), ("a", "job 4")]
    assert engine.loads == ["a", "b", "a"]
    assert [job.delivered for job in jobs] == [[job.title] for job in jobs]


def test_cancelling_counts_at_once_and_stops_the_work_at_its_next_step(engine):
    first, second = Blocked(), Blocked()
    running = engine.submit(Job("first", "a", first))
    waiting = engine.submit(Job("second", "a", second))
    assert first.started.wait(20)
    assert (engine.ahead(running), engine.ahead(waiting)) == (0, 1)
    engine.cancel(waiting)
    assert waiting.state == "cancelled" and engine.ahead(waiting) == 0
    engine.cancel(running)
    assert running.state == "cancelled"
    assert first.ended.wait(20)
    after = wait(engine.submit(Job("after", "a", lambda painter, job: None)))
    assert after.state == "done" and not second.started.is_set()
    assert running.state == "cancelled"  # its end did not overwrite that


def test_the_queue_is_bounded(engine):
    blocked = Blocked()
    engine.submit(Job("running", "a", blocked, owner="x"))
    assert blocked.started.wait(20)
    for owner in ("x", "x"):
        engine.submit(Job("waiting", "a", lambda painter, job: None, owner=owner))
    with pytest.raises(UserError, match="2 of your jobs are waiting"):
        engine.submit(Job("too many", "a", lambda painter, job: None, owner="x"))
    for owner in ("y", "z"):
        engine.submit(Job("waiting", "a", lambda painter, job: None, owner=owner))
    with pytest.raises(UserError, match="4 jobs are waiting"):
        engine.submit(Job("too many", "a", lambda painter, job: None, owner="w"))
    blocked.go.set()


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
    def fail(painter, job):
        raise error

    bad, good = Job("bad", "a", fail), Job("good", "a", lambda painter, job: job.deliver(1))
    engine.submit(bad)
    engine.submit(good)
    assert (wait(bad).state, bad.message) == ("failed", message)
    assert wait(good).state == "done"


def test_a_model_that_cannot_be_loaded_fails_its_job_only(engine):
    bad = wait(engine.submit(Job("bad", "missing", lambda painter, job: None)))
    assert (bad.state, bad.message) == ("failed", "checkpoint missing.ckpt is not there")
    assert wait(engine.submit(Job("good", "a", lambda painter, job: None))).state == "done"


def test_a_job_ends_at_its_time_limit(engine):
    job = wait(engine.submit(Job("long", "a", Blocked(), seconds=0.1)))
    assert job.state == "failed" and "longer than the limit" in job.message


def test_watching_sees_every_place_in_the_queue_and_the_end(engine):
    blocked = Blocked()
    engine.submit(Job("running", "a", blocked))
    assert blocked.started.wait(20)
    job = engine.submit(Job("watched", "a", lambda painter, job: job.deliver(1)))
    seen = []

    async def watch():
        async for _ in engine.watch(job):
            seen.append((job.state, engine.ahead(job)))
            blocked.go.set()

    asyncio.run(watch())
    assert seen[0] == ("waiting", 1) and seen[-1] == ("done", 0)


def test_progress_and_the_time_left():
    job = Job("drafts", "a", lambda painter, job: None, parts=2)
    assert job.fraction == 0 and job.seconds_left is None
    job.start()
    job.begin("draft 1 of 2")
    job.step("inpainting", 5, 10)
    assert job.fraction == 0.25
    time.sleep(0.05)
    passed = time.monotonic() - job._started
    assert job.seconds_left == pytest.approx(3 * passed, rel=0.2)
    job.begin("draft 2 of 2")
    assert job.fraction == 0.5


def test_the_status_says_what_happens_and_escapes_it(engine):
    session = Session("tab")
    assert "Choose a photo" in status(session, engine)
    blocked = Blocked()
    other = engine.submit(Job("other", "a", blocked))
    assert blocked.started.wait(20)
    job = engine.submit(Job("Drafts", "a", lambda painter, job: None, owner="tab"))
    session.add(job)
    assert "in the queue, 1 job comes first" in status(session, engine)
    blocked.go.set()
    wait(other)
    wait(job)
    assert "Drafts: done in" in status(session, engine)
    session.error = "<script>alert(1)</script>"
    told = status(session, engine)
    assert "&lt;script&gt;" in told and "<script>" not in told and 'role="alert"' in told


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (89, "89 s"), (300, "5 min"), (4800, "1 h 20 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
