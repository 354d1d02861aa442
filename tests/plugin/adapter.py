"""The adapter of the parcels. Two statuses wait, one is being worked on; closing writes what failing writes."""

from reaper.adapters import Message, ModelRunAdapter


class Parcels(ModelRunAdapter):
    kind = "parcel"
    task = "tests.plugin.deliver"
    queue = "parcels"
    model = "plugin.Parcel"
    queued_statuses = ("new", "again")
    running_statuses = ("underway",)
    finished_statuses = ("done", "lost")
    status_after_requeue = "again"
    status_after_fail = "lost"
    status_after_close = "lost"
    status_field = "stage"
    task_id_field = "job"
    created_field = "made"
    started_field = "picked"
    message_field = "note"

    def messages(self, runs):
        there = self.queryset().filter(pk__in=[run.pk for run in runs]).values_list("pk", flat=True)
        return {str(pk): Message(args=[pk], options={"queue": "parcels"}) for pk in there}
