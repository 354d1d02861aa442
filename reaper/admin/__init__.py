"""The reaper's pages in Django's admin, and what a host's own admin may use of them.

* `ReaperRunAdminMixin`: for the `ModelAdmin` of a model whose rows are runs.
* `ReadOnlyMixin`: for a `ModelAdmin` or an inline in which nothing is added, changed or deleted.
* `datetime_column`: a column that shows a timestamp with its seconds.

Importing this package registers the reaper's models, as Django's autodiscovery does: import it from an `admin` module,
never from `models` or from an adapter.
"""

from reaper.admin import alerts as alerts
from reaper.admin import controls as controls
from reaper.admin import history as history
from reaper.admin.columns import datetime_column
from reaper.admin.host_mixin import ReaperRunAdminMixin
from reaper.admin.mixins import ReadOnlyMixin

__all__ = ["ReadOnlyMixin", "ReaperRunAdminMixin", "datetime_column"]
