"""Tests of the project, for ``manage.py test``."""

from django.test import TestCase

from aether_sync import Event
from aether_sync.contrib.django import get_bus, outbox
from aether_sync.contrib.django.testing import AetherTestCase, AetherTransactionTestCase
from shop.events import heard
from shop.models import Balance, Mail, Order


class BuyTest(AetherTestCase):
    def test_the_handlers_see_what_the_view_has_committed(self):
        self.client.post("/buy/7")
        self.assertEqual(self.store.last_sequence(), 0)
        self.assertEqual(self.drain(), 5)  # two events sent; a consumer, a listener and a projection called
        self.assertEqual([event.version for event in self.store.get_events("order-7")], [1])
        self.assertEqual([mail.order for mail in Mail.objects.all()], ["order-7"])
        self.assertEqual(Balance.objects.get().events, 1)
        self.assertEqual(heard.pop(), "order-7")
        self.assertEqual(self.drain(), 0)

    def test_a_test_leaves_nothing(self):
        self.assertEqual(self.store.last_sequence(), 0)
        self.assertFalse(Order.objects.exists() or Mail.objects.exists() or outbox.relay().set_aside())

    def test_what_is_published_on_commit(self):
        with self.captureOnCommitCallbacks(execute=True):
            self.client.post("/announce/8")
        self.assertEqual(self.published.events[0].actor_id, "order-8")

    def test_an_event_that_comes_twice_is_handled_once(self):
        self.store.append("order-1", Event(event_type="OrderPlaced", actor_id="order-1", data={"again": True}),
                          expected_version=0)  # fmt: skip
        self.drain()
        self.assertEqual(Mail.objects.count(), 1)

    def test_an_error_of_a_handler_is_the_tests(self):
        self.store.append("order-1", Event(event_type="OrderPlaced", actor_id="order-1", data={"fails": True}),
                          expected_version=0)  # fmt: skip
        with self.assertRaisesRegex(ValueError, "there is no address"):
            self.drain()
        self.assertEqual(Mail.objects.count(), 0)


class TransactionTest(AetherTransactionTestCase):
    def test_commits_are_real(self):
        self.client.post("/announce/9")
        self.assertEqual(self.published.events[0].actor_id, "order-9")
        self.client.post("/buy/10")
        self.assertEqual(self.drain(), 6)
        self.assertEqual([mail.order for mail in Mail.objects.all()], ["order-10"])


class PlainTest(TestCase):
    def test_without_the_helpers_the_settings_count(self):
        self.assertIn("NATSEventBus", repr(get_bus()))
