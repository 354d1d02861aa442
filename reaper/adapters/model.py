"""The adapter that most hosts subclass: runs that are rows of one Django model."""

from django.core import checks

from reaper.adapters.model_checks import check_model_adapter
from reaper.adapters.model_reader import ModelReader
from reaper.adapters.model_writer import ModelWriter


class ModelRunAdapter(ModelReader, ModelWriter):
    """Runs that are rows of one model: a subclass names the model, its statuses and its columns.

    The attributes are those of `ModelMapping` and `RunAdapter`; `messages()` is the one method that must be written.
    """

    def check(self) -> list[checks.CheckMessage]:
        """Return one error for a missing model or for each missing column; otherwise a warning per missing index."""
        return check_model_adapter(self)
