"""Tests of what the processes of a run tell each other, as threads with a key-value store in memory."""

import contextlib
import itertools
import json
import random
import signal
import threading
import time

import pytest

from genre_jax import console, hosts
from genre_jax.console import UserError
from genre_jax.hosts import Team


class Store:
    """The part of JAX's key-value store that a team uses; `gone` makes every call fail, as if its process had died."""

    def __init__(self, count):
        self.values, self.changed, self.gone, self.count, self.waiting = {}, threading.Condition(), False, count, {}

    def _check(self):
        if self.gone:
            raise RuntimeError("UNAVAILABLE")

    def key_value_set(self, key, value, allow_overwrite=False):
        with self.changed:
            self._check()
            if key in self.values and not allow_overwrite:
                raise RuntimeError("ALREADY_EXISTS")
            self.values[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key, milliseconds):
        with self.changed:
            if not self.changed.wait_for(lambda: self.gone or key in self.values, min(milliseconds / 1000, 60)):
                raise RuntimeError("DEADLINE_EXCEEDED")
            self._check()
            return self.values[key]

    def key_value_dir_get(self, start):
        with self.changed:
            self._check()
            return [(key, value) for key, value in self.values.items() if key.startswith(start)]

    def wait_at_barrier(self, key, milliseconds):
        with self.changed:
            barrier = self.waiting.setdefault(key, threading.Barrier(self.count))
        barrier.wait(30)


class Died(Exception):
    """The process would have ended."""


@pytest.fixture
def deaths(monkeypatch):
    """Fast heartbeats; (sentence, code) of the processes that would have ended."""
    for name, value in (("BEAT", 0.02), ("LOST", 0.4), ("LOST_AFTER_ERROR", 0.2), ("END", 0.3)):
        monkeypatch.setattr(hosts, name, value)
    found = []

    def die(sentence, code):
        found.append((sentence, code))
        raise Died

    monkeypatch.setattr(hosts, "_die", die)
    monkeypatch.setattr(threading, "excepthook", lambda args: None if args.exc_type is Died else pytest.fail(str(args)))
    yield found
    console.mute(False)


def teams(count):
    """The members of a team, which is made in threads because each waits for the names of the others."""
    store, made = Store(count), [None] * count

    def make(number):
        made[number] = Team(store, number, count)

    together(*(lambda number=number: make(number) for number in range(count)))
    return store, made


def together(*calls):
    """Call functions in threads, and return their results; raise the first exception."""
    results, errors = [None] * len(calls), []

    def run(number):
        try:
            results[number] = calls[number]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
    return results


def end(members):
    for member in members:
        member._ending.set()
        member._left.set()
    members[0]._set("end", json.dumps({"process": 0, "code": 0, "text": ""}))  # their threads end


def test_the_first_process_decides_for_all(deaths):
    _, members = teams(3)
    assert (
        together(*(lambda member=member: member.broadcast(lambda: {"from": member.index}) for member in members))
        == [{"from": 0}] * 3
    )

    def fail():
        raise UserError("the disk is full")

    errors = []

    def ask(member):
        with pytest.raises(UserError, match="the disk is full") as error:
            member.broadcast(fail)
        errors.append(str(error.value))

    together(*(lambda member=member: ask(member) for member in members))
    assert errors == ["the disk is full"] * 3
    together(*(member.barrier for member in members))
    end(members)
    assert not deaths


@pytest.mark.parametrize(("asking", "seed"), itertools.product([0, 2], range(4)))
def test_all_stop_at_the_same_tick(deaths, asking, seed):
    """Each process is at most three ticks ahead of the slowest, as in a run, in which two steps may be in flight."""
    _, members = teams(3)
    ticks, stopped = [0] * 3, [None] * 3
    chance = random.Random(seed)
    pauses = [[chance.uniform(0, 0.01) for _ in range(400)] for _ in members]

    def train(member):
        for tick in range(400):
            while tick - min(ticks) > 2:
                time.sleep(0.0005)
            time.sleep(pauses[member.index][tick])
            if tick == 30 and member.index == asking:
                member.ask_to_stop(signal.SIGTERM)
            number = member.tick()
            ticks[member.index] = tick
            if number:
                stopped[member.index] = (tick, number, member.signal)
                ticks[member.index] = 10**6
                return

    together(*(lambda member=member: train(member) for member in members))
    assert stopped[0] and stopped == [stopped[0]] * 3 and stopped[0][1:] == (signal.SIGTERM, signal.SIGTERM)
    assert stopped[0][0] > 30
    end(members)
    assert not deaths


def test_a_process_without_heartbeat_is_named(deaths):
    _, members = teams(3)
    members[1]._left.set()  # its heartbeat stops
    time.sleep(1)
    assert {text.split(" on ")[0] for text, _ in deaths} == {"process 1"} and len(deaths) == 2
    assert all("has given no sign of life for" in text and code == 1 for text, code in deaths)
    end(members)


def test_the_end_of_the_first_process_ends_the_others(deaths):
    store, members = teams(2)
    members[0]._left.set()
    with store.changed:
        store.gone = True
        store.changed.notify_all()
    time.sleep(0.3)
    ((text, code),) = deaths
    assert text.startswith("process 0 on ") and "has gone" in text and code == 1
    assert members[1].index == 1


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("no such file"), 1), (console.Terminated(), 143), (KeyboardInterrupt(), 130)]
)
def test_an_end_ends_the_others_with_the_same_code(deaths, monkeypatch, error, code):
    leaving = []
    monkeypatch.setattr(hosts.atexit, "register", lambda function, code: leaving.append(code))
    _, members = teams(3)
    members[1].fail(error)
    time.sleep(0.6)
    assert leaving == [code]
    first = deaths[:2]  # later they miss its heartbeat: here their threads go on
    assert [number for _, number in first] == [code] * 2
    assert all(text.startswith("process 1 on ") and (str(error) or type(error).__name__) in text for text, _ in first)
    end(members)


def test_the_same_error_on_all_is_printed_by_the_first(deaths, monkeypatch):
    monkeypatch.setattr(hosts.atexit, "register", lambda function, code: None)
    _, members = teams(3)
    quiet = []

    def fail(member):
        try:
            member.fail(UserError("a wrong key"))
        except SystemExit as error:
            quiet.append((member.index, error.code))

    together(*(lambda member=member: fail(member) for member in members))
    assert sorted(quiet) == [(1, 1), (2, 1)]
    assert not deaths


def test_a_single_process_needs_no_team():
    assert (hosts.count(), hosts.index(), hosts.is_first(), hosts.ticked(), hosts.stopped()) == (1, 0, True, 0, 0)
    assert hosts.broadcast(lambda: [1]) == [1] and hosts.in_turn(lambda: 2) == 2
    hosts.wait_for_all()
    hosts.check()
    with contextlib.suppress(ZeroDivisionError), hosts.together():
        raise ZeroDivisionError
