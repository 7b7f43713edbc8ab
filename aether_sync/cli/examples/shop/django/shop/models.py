"""The table of orders, which the worker fills and the views read."""

from typing import Any

from django.db import models


class Order(models.Model):
    number = models.PositiveBigIntegerField(primary_key=True)
    customer = models.CharField(max_length=100)
    items = models.PositiveIntegerField()
    article = models.CharField(max_length=100)
    status = models.CharField(max_length=20)
    sequence = models.PositiveBigIntegerField()  # of the order's last event

    @classmethod
    def newest(cls, count: int = 100) -> list[dict[str, Any]]:
        """Return the orders that have changed last, the newest first."""
        return list(cls.objects.order_by("-sequence").values()[:count])
