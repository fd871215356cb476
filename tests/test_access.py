"""Who may enter, and how often one may ask."""

from __future__ import annotations

import pytest

from components.errors import Busy
from components.server.access import (
    CROWD,
    GUESSES,
    Door,
    Limiter,
    Limits,
    Visitor,
    is_far,
    new_password,
    read_users,
)

ANN, BOB = Visitor("ann", "192.0.2.1"), Visitor("bob", "192.0.2.1")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_users_are_read_from_options_and_files(tmp_path):
    (tmp_path / "users").write_text("ann:one:two\n\n bob:x y\n", encoding="utf-8")
    assert read_users(["eve:s", f"@{tmp_path}/users"]) == {"eve": "s", "ann": "one:two", "bob": "x y"}
    assert read_users([]) == {}


@pytest.mark.parametrize("entry", ["secret", ":secret", "user:", "@/no/such/file"])
def test_an_entry_that_is_none_gets_a_sentence_without_it(entry):
    with pytest.raises(ValueError, match=r"user:password|cannot be read") as raised:
        read_users([entry])
    assert "secret" not in str(raised.value)


def test_passwords_are_long_and_never_the_same():
    assert len({new_password() for _ in range(100)}) == 100
    assert all(len(new_password()) == 12 for _ in range(10))


def test_a_visitor_who_asks_too_often_is_told_how_long_to_wait():
    clock = Clock()
    limits = Limits(2, clock)
    limits.check(ANN)
    clock.now += 20
    limits.check(ANN)
    limits.check(BOB)
    clock.now += 0.5
    with pytest.raises(Busy, match=r"2 runs in a minute.* Try again in 40 seconds\."):
        limits.check(ANN)
    clock.now += 40
    limits.check(ANN)
    with pytest.raises(Busy, match="20 seconds"):
        limits.check(ANN)


def test_who_pretends_to_be_many_is_stopped_by_the_address():
    limits = Limits(2, Clock())
    for number in range(2 * CROWD):
        limits.check(Visitor(f"session {number}", "192.0.2.1"))
    with pytest.raises(Busy, match=r"From your network .* Try again in 60 seconds"):
        limits.check(Visitor("one more", "192.0.2.1"))
    limits.check(Visitor("one more", "192.0.2.2"))


def test_no_limit_is_no_limit():
    limits = Limits(0)
    for _ in range(1000):
        limits.check(ANN)


def test_visitors_who_are_gone_are_forgotten():
    clock = Clock()
    limiter = Limiter(5, clock)
    for number in range(1000):
        limiter.wait(str(number))
    clock.now += 61
    limiter.wait("ann")
    assert set(limiter._times) == {"ann"}


def test_the_right_password_opens_and_a_wrong_one_does_not():
    door = Door({"ann": "secret"})
    assert door("ann", "secret")
    assert not door("ann", "secreT") and not door("bob", "secret") and not door("", "\0")


def test_guessing_shuts_the_door_for_a_while():
    clock = Clock()
    door = Door({"ann": "secret", "bob": "other"}, clock)
    for number in range(GUESSES + 1):
        assert not door("ann", f"guess {number}")
    assert not door("ann", "secret")
    assert door("bob", "other")
    clock.now += 61
    assert door("ann", "secret")


HERE = {"host": "127.0.0.1:7860"}


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:7860", "localhost:80", "LOCALHOST", "[::1]:9", "a.localhost"]
)
def test_what_asks_for_this_machine_is_near(host):
    assert not is_far({"host": host, "user-agent": "Mozilla", "accept": "*/*", "origin": "http://x"})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": ""},
        {"host": "["},
        {"host": "tour.example:7860"},
        {"host": "localhost.example"},
        {"host": "192.168.0.7"},
        {"host": "tour"},
        *({**HERE, name: "x"} for name in ("forwarded", "via", "x-real-ip")),
        *({**HERE, f"x-forwarded{more}": ""} for more in ("", "-for", "-host", "-proto", "-port", "-prefix")),
    ],
)
def test_what_names_another_host_or_bears_the_mark_of_a_proxy_is_far(headers):
    assert is_far(headers)


def test_nginx_without_any_setting_is_known_by_its_version_of_http():
    assert is_far(HERE, "1.0") and not is_far(HERE, "1.1") and not is_far(HERE, "2")


def test_where_only_this_machine_opens_the_page_others_have_limits_all_the_same():
    limits = Limits(2, Clock(), far_only=True)
    far = Visitor("ann", "127.0.0.1", far=True)
    for _ in range(9):
        limits.check(ANN)
    limits.check(far)
    limits.check(far)
    with pytest.raises(Busy):
        limits.check(far)
