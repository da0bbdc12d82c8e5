"""Teams: who does what, who dies of what, and that nothing is lost or done twice by that."""

import importlib.util
import re
import sys
from collections import Counter

import pytest

from hdpainter.team import Lost, device_names, open_team
from ldm.util import UserError
from tests.hdpainter.team.members import Doublers

HAS_RAY = importlib.util.find_spec("ray") is not None
TEAMS = [
    ("cpu",),
    ("cpu", "cpu"),
    pytest.param(("ray:2",), marks=[pytest.mark.slow, pytest.mark.skipif(not HAS_RAY, reason="needs Ray")]),
]
OF_SEVERAL = TEAMS[1:]


@pytest.fixture
def diary(tmp_path):
    return tmp_path / "diary"


def work(devices, recruit, groups):
    """The answers of a team, in no order."""
    with open_team(devices, recruit) as team:
        return [(list(items), list(results)) for items, results in team.work(groups)]


@pytest.mark.parametrize("devices", TEAMS)
def test_every_group_is_answered_once(devices, diary):
    recruit = Doublers(diary)
    groups = [[n, n + 1] for n in range(0, 40, 2)]
    done = work(devices, recruit, iter(groups))
    assert sorted(done) == [(group, [2 * n for n in group]) for group in groups]
    assert Counter(item for _, item in recruit.begun()) == dict.fromkeys(range(40), 1)
    assert len({process for process, _ in recruit.begun()}) == (1 if devices == ("cpu",) else 2)


def test_groups_are_made_when_there_is_time_for_them(diary):
    made = []

    def groups():
        for n in range(50):
            made.append(n)
            yield [n]

    with open_team(("cpu", "cpu"), Doublers(diary)) as team:
        for count, _ in enumerate(team.work(groups()), 1):
            assert len(made) <= count + 4


@pytest.mark.parametrize("devices", OF_SEVERAL)
def test_the_groups_of_members_that_die_go_to_others_and_nothing_is_done_twice(devices, diary):
    recruit = Doublers(diary, once=(3, 12))
    groups = [[n, n + 1] for n in range(0, 20, 2)]
    done = work(devices, recruit, groups)
    assert sorted(item for items, _ in done for item in items) == list(range(20))
    assert all(results == [2 * n for n in items] for items, results in done)
    begun = Counter(item for _, item in recruit.begun())
    assert begun == {n: 2 if n in (2, 3, 12, 13) else 1 for n in range(20)}
    assert len({process for process, _ in recruit.begun()}) in (3, 4)


@pytest.mark.parametrize("devices", OF_SEVERAL)
def test_an_item_of_which_three_members_die_is_lost_and_the_others_are_done(devices, diary):
    recruit = Doublers(diary, deadly=(5,))
    done = work(devices, recruit, [[n, n + 1, n + 2] for n in range(0, 12, 3)])
    results = dict(pair for items, results in done for pair in zip(items, results, strict=True))
    lost = results.pop(5)
    assert results == {n: 2 * n for n in range(12) if n != 5}
    assert isinstance(lost, Lost) and lost.message.startswith(
        "3 members of the team died of it, the last one: "
    )
    assert sum(item == 5 for _, item in recruit.begun()) == 3


@pytest.mark.parametrize("devices", OF_SEVERAL)
def test_members_that_do_nothing_but_die_end_the_work(devices, diary):
    with pytest.raises(RuntimeError, match="died 12 times in a row, the last one: "):
        work(devices, Doublers(diary, deadly=tuple(range(9))), [[n] for n in range(9)])


@pytest.mark.parametrize("devices", TEAMS)
def test_what_a_member_raises_ends_the_work(devices, diary):
    with pytest.raises((RuntimeError, ValueError), match="-1 cannot be doubled"):
        work(devices, Doublers(diary), [[1], [-1], [2]])
    with pytest.raises(UserError, match="is of no use here"):
        work(devices, Doublers(diary, useless=True), [[1]])


@pytest.mark.parametrize("devices", OF_SEVERAL)
def test_a_team_works_again_and_again_with_the_same_members(devices, diary):
    recruit = Doublers(diary)
    with open_team(devices, recruit) as team:
        for start in (0, 100):
            assert len(list(team.work([n] for n in range(start, start + 20)))) == 20
    assert len({process for process, _ in recruit.begun()}) == 2


@pytest.mark.parametrize("text", ["cpu,", "ray,cpu", "ray:0", "ray:x", "rays"])
def test_devices_that_make_no_sense(text):
    with pytest.raises(Exception, match=f"'{text}' (has an empty name|is no cluster)"):
        device_names(text)


def test_devices():
    assert device_names("cuda:0, cuda:1") == ["cuda:0", "cuda:1"]
    assert device_names("ray://head:10001") == ["ray://head:10001"]


def test_without_ray_it_is_said_how_to_get_it(monkeypatch, diary):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[cluster\]'"):
        work(("ray",), Doublers(diary), [[1]])


@pytest.mark.slow
def test_a_team_is_no_larger_than_its_cluster(diary):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        with pytest.raises(UserError, match=r"3 actors are more than .* processor cores for: give at most 2"):
            work(("ray:3",), Doublers(diary), [[1]])
        done = work(("ray",), Doublers(diary), [[n] for n in range(5)])  # one actor with both cores
        assert len(done) == 5 and len({process for process, _ in Doublers(diary).begun()}) == 1
    finally:
        ray.shutdown()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "[::1]:99999"])
def test_an_address_where_there_is_no_cluster_is_told(diary, monkeypatch, address):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray would try for minutes"))
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=f"there is no Ray cluster at {re.escape(address)}: "):
        work(("ray",), Doublers(diary), [[1]])
