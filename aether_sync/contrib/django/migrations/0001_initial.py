"""The tables of the application."""

from django.db import migrations, models

__all__ = ["Migration"]


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="DeadLetter",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ],
            options={
                "managed": False,
                "default_permissions": ("view", "change", "delete"),
            },
        ),
        migrations.CreateModel(
            name="HandledEvent",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "consumer", "stream", "sequence", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("consumer", models.CharField(max_length=200)),
                ("stream", models.CharField(max_length=200)),
                ("sequence", models.BigIntegerField()),
                ("event_id", models.TextField()),
            ],
            options={
                "db_table": "aether_handled",
            },
        ),
        migrations.CreateModel(
            name="ProjectionState",
            fields=[
                ("name", models.CharField(max_length=200, primary_key=True, serialize=False)),
                ("layout", models.BigIntegerField()),
                ("stream", models.TextField()),
                ("actors", models.TextField()),
                ("event_types", models.TextField()),
                ("sequence", models.BigIntegerField()),
                ("event_sequence", models.BigIntegerField()),
                ("event_id", models.TextField()),
                ("owner", models.CharField(max_length=64)),
                ("beat", models.BigIntegerField()),
                ("stopped", models.CharField(max_length=20)),
                ("stopped_at", models.BigIntegerField()),
                ("reason", models.TextField()),
            ],
            options={
                "verbose_name": "projection",
                "db_table": "aether_projections",
                "ordering": ("name",),
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="SetAsideEvent",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "projection", "sequence", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("projection", models.CharField(max_length=200)),
                ("sequence", models.BigIntegerField()),
                ("event_id", models.TextField()),
                ("actor_id", models.TextField()),
                ("event_type", models.TextField()),
                ("reason", models.TextField()),
                ("event", models.TextField()),
            ],
            options={
                "db_table": "aether_set_aside",
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="OutboxEvent",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(choices=[("append", "to the store"), ("publish", "to the bus")], max_length=8),
                ),
                ("name", models.CharField(max_length=512)),
                ("events", models.TextField()),
                ("count", models.IntegerField()),
                ("expected_version", models.BigIntegerField(null=True)),
                ("version", models.BigIntegerField(null=True)),
                ("created_at", models.DateTimeField()),
                ("error", models.TextField(db_default="", default="")),
                ("set_aside_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "row of the outbox",
                "verbose_name_plural": "outbox",
                "db_table": "aether_outbox",
                "ordering": ("id",),
                "default_permissions": ("view", "change", "delete"),
                "indexes": [
                    models.Index(
                        condition=models.Q(("set_aside_at__isnull", False)),
                        fields=["name"],
                        name="aether_outbox_set_aside",
                    )
                ],
            },
        ),
    ]
