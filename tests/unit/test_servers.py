"""Which server is tried next."""

from aether_sync._nats.servers import Server, Servers


def order(servers: Servers, count: int, failing: set[str]) -> list[str]:
    """The next tries, at servers of which some cannot be reached."""
    tried = []
    for _ in range(count):
        server = servers.next()
        server.failures = server.failures + 1 if server.url in failing else 0
        tried.append(server.url)
    return tried


def test_the_last_one_comes_last() -> None:
    servers = Servers(["nats://a", "nats://b", "nats://c"])
    for _ in range(20):
        first, second = order(servers, 2, set())
        assert first != second
    assert set(order(servers, 50, set())) == {"nats://a", "nats://b", "nats://c"}


def test_one_alone_is_tried_again() -> None:
    assert order(Servers(["nats://u:p@a"]), 3, {"nats://a"}) == ["nats://a"] * 3


def test_those_that_fail_are_tried_less_than_one_that_does_not() -> None:
    servers = Servers(["nats://a", "nats://b", "nats://c"])
    assert order(servers, 30, {"nats://a", "nats://b"}).count("nats://c") >= 28


def test_a_success_makes_all_equal_again() -> None:
    """After a long outage of all, the one that was there first is left for another at once."""
    urls = ["nats://a", "nats://b"]
    servers = Servers(urls)
    order(servers, 51, set(urls))
    first = servers.next()  # the one that failed less often
    servers.succeeded()
    assert servers.next() is not first


def test_all_are_tried_in_turn_while_all_fail() -> None:
    urls = ["nats://a", "nats://b", "nats://c"]
    servers = Servers(urls)
    for _ in range(5):
        assert sorted(order(servers, 3, set(urls))) == urls


def test_what_a_server_tells() -> None:
    servers = Servers(["tls://given:1"])
    given = servers.next()
    assert not servers.has_other(given)
    servers.learn(given, ["10.0.0.1:4222", "[::1]:4222", "named:4222", "given:1", "[no address", "x:99999"])
    known = {server.url: server for server in servers._known.values()}
    assert set(known) == {"tls://given:1", "tls://10.0.0.1:4222", "tls://[::1]:4222", "tls://named:4222"}
    assert known["tls://given:1"] is given
    assert [known[url].tls_hostname for url in known if url[6] in "1["] == ["given", "given"]
    assert known["tls://named:4222"].tls_hostname is None
    assert servers.has_other(given)


def test_what_is_not_told_any_more_is_forgotten_but_for_the_one_it_came_from() -> None:
    servers = Servers(["nats://given"])
    servers.learn(servers.next(), ["10.0.0.1:4222", "10.0.0.2:4222"])
    servers.learn(servers.next(), [])
    one = servers._known["10.0.0.1", 4222]
    servers.learn(one, ["10.0.0.3:4222"])
    assert {server.url for server in servers._known.values()} == {
        "nats://given", "nats://10.0.0.1:4222", "nats://10.0.0.3:4222",
    }  # fmt: skip


def test_a_server_rests_between_two_tries() -> None:
    from time import monotonic

    server = Server("nats://a")
    assert server.rest() == 0
    server.tried = monotonic()
    assert 0.3 < server.rest() <= 0.5
