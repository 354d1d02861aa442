"""From a kind and a primary key to the model, and to the admin page, of that run or parent."""

from django.contrib import admin
from django.contrib.admin.utils import quote
from django.db.models import Model
from django.urls import NoReverseMatch, reverse

from reaper.adapters import ModelRunAdapter
from reaper.conf import settings as conf
from reaper.ledger.manual import PARENT_SUFFIX


def model_of(kind: str) -> type[Model] | None:
    """Return the model of a kind's runs, or of their parents; None if the kind is unknown or has no model."""
    adapter = conf.adapters().get(kind.removesuffix(PARENT_SUFFIX))
    if not isinstance(adapter, ModelRunAdapter):
        return None
    if not kind.endswith(PARENT_SUFFIX):
        return adapter.model_class
    parent = adapter.parent_field and adapter.model_class._meta.get_field(adapter.parent_field)
    return parent.related_model if parent else None


def change_url(site: admin.AdminSite, kind: str, pk: str) -> str:
    """Return the URL of the host's admin page of one run or parent; "" if it has none."""
    model = model_of(kind)
    if model is None or not site.is_registered(model):
        return ""
    try:
        return reverse(f"{site.name}:{model._meta.app_label}_{model._meta.model_name}_change", args=[quote(pk)])
    except NoReverseMatch:
        return ""
