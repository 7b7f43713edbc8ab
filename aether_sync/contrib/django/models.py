"""The tables of the application, and what the admin shows beside them."""

from django.db import models

from ...outbox.rows import APPEND, LONGEST_NAME, PUBLISH

__all__ = ["DeadLetter", "HandledEvent", "OutboxEvent", "ProjectionState", "SetAsideEvent"]


class OutboxEvent(models.Model):
    """A call of ``outbox.append()`` or ``outbox.publish()`` that is not sent yet; :class:`OutboxRow` has its fields."""

    id: int

    kind = models.CharField(max_length=8, choices=[(APPEND, "to the store"), (PUBLISH, "to the bus")])
    name = models.CharField(max_length=LONGEST_NAME)
    events = models.TextField()
    count = models.IntegerField()
    expected_version = models.BigIntegerField(null=True)
    version = models.BigIntegerField(null=True)
    created_at = models.DateTimeField()
    error = models.TextField(default="", db_default="")
    set_aside_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "aether_outbox"
        verbose_name = "row of the outbox"
        verbose_name_plural = "outbox"
        default_permissions = ("view", "change", "delete")  # to retry one changes it; to discard one deletes it
        ordering = ("id",)
        indexes = (
            models.Index(
                fields=["name"], name="aether_outbox_set_aside", condition=models.Q(set_aside_at__isnull=False)
            ),
        )

    def __str__(self) -> str:
        return f"row {self.id} of the outbox, for {self.name}"


class HandledEvent(models.Model):
    """A note that a handler with ``once=True`` has handled an event, written in the handler's transaction.

    The worker writes it by statements of its own: :mod:`aether_sync.worker.idempotence` has the same table.
    """

    pk = models.CompositePrimaryKey("consumer", "stream", "sequence")
    consumer = models.CharField(max_length=200)
    stream = models.CharField(max_length=200)
    sequence = models.BigIntegerField()
    event_id = models.TextField()

    class Meta:
        db_table = "aether_handled"

    def __str__(self) -> str:
        return f"event {self.sequence} of {self.stream}, handled by {self.consumer}"


class ProjectionState(models.Model):
    """How far a projection is; it writes this row in the transaction of each batch."""

    name = models.CharField(max_length=200, primary_key=True)
    layout = models.BigIntegerField()
    stream = models.TextField()
    actors = models.TextField()
    event_types = models.TextField()
    sequence = models.BigIntegerField()
    event_sequence = models.BigIntegerField()
    event_id = models.TextField()
    owner = models.CharField(max_length=64)
    beat = models.BigIntegerField()
    stopped = models.CharField(max_length=20)
    stopped_at = models.BigIntegerField()
    reason = models.TextField()

    class Meta:
        db_table = "aether_projections"
        verbose_name = "projection"
        default_permissions = ("view",)
        ordering = ("name",)

    def __str__(self) -> str:
        return f"{self.name}"


class SetAsideEvent(models.Model):
    """An event that a projection has set aside, as it could not be applied."""

    pk = models.CompositePrimaryKey("projection", "sequence")
    projection = models.CharField(max_length=200)
    sequence = models.BigIntegerField()
    event_id = models.TextField()
    actor_id = models.TextField()
    event_type = models.TextField()
    reason = models.TextField()
    event = models.TextField()

    class Meta:
        db_table = "aether_set_aside"
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"event {self.sequence}, set aside by {self.projection}"


class DeadLetter(models.Model):
    """An event that a consumer gave up. It has no table: the store keeps it, and the admin asks that."""

    class Meta:
        managed = False
        default_permissions = ("view", "change", "delete")  # to retry one changes it; to discard one deletes it
