"""Parcels: integer keys, other words, nearly every column nullable, nothing unique, no worker, progress or parent."""

from django.db import models


class Parcel(models.Model):
    stage = models.CharField(max_length=10, null=True)
    job = models.CharField(max_length=40, null=True)
    made = models.DateTimeField(null=True)
    picked = models.DateTimeField(null=True)
    note = models.CharField(max_length=60, null=True)

    class Meta:
        app_label = "plugin"
        indexes = [
            models.Index(fields=["made", "id"], condition=models.Q(stage="new"), name="parcel_new"),
            models.Index(fields=["made", "id"], condition=models.Q(stage="again"), name="parcel_again"),
            models.Index(fields=["picked", "id"], condition=models.Q(stage="underway"), name="parcel_underway"),
            models.Index(
                fields=["id"],
                condition=~models.Q(stage__in=["new", "again", "underway", "done", "lost"]) | models.Q(stage=None),
                name="parcel_unknown",
            ),
        ]

    def __str__(self):
        return f"parcel {self.pk}"
