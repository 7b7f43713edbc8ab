from django.db import models


class Order(models.Model):
    """What a view writes."""

    number = models.CharField(max_length=50, primary_key=True)


class Mail(models.Model):
    """The effect of a handler: without a key, so one that comes twice is there twice."""

    order = models.CharField(max_length=50)


class Balance(models.Model):
    """What a projection writes."""

    actor = models.CharField(max_length=50, primary_key=True)
    events = models.IntegerField(default=0)
