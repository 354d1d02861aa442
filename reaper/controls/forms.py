"""The forms with which operators switch a kind, override its policy or exempt a run."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from django import forms

from reaper import checks
from reaper.adapters import RunAdapter
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.controls.append_only import latest_row
from reaper.controls.modes import MAX_CONTROL_DURATION
from reaper.controls.overrides import OVERRIDABLE, effective_values, parse_override, set_overrides
from reaper.core.fields import field_docs
from reaper.core.formatting import format_value
from reaper.core.policy import Mode, Policy
from reaper.exceptions import InvalidValue
from reaper.models import Exemption, KindControl, PolicyOverride


class KindForm(forms.ModelForm):
    """A form about one kind of runs."""

    kind = forms.ChoiceField(choices=lambda: [(kind, kind) for kind in conf.adapters()])

    def clean_deadline(self, name: str) -> datetime | None:
        """Return a field's timestamp. Raise ValidationError when it has passed, or is more than a year away."""
        until = self.cleaned_data[name]
        now = clock.now(conf.adapters()[self.cleaned_data["kind"]].using) if "kind" in self.cleaned_data else None
        if until and now and not now < until <= now + MAX_CONTROL_DURATION:
            raise forms.ValidationError(f"{until:%Y-%m-%d %H:%M:%S %Z} is not within a year from now.")
        return until


class KindControlForm(KindForm):
    """How a kind is swept from now on. A field left empty ends what was set before."""

    mode = forms.ChoiceField(
        required=False,
        choices=[("", "default (from settings)"), *((str(each), str(each)) for each in Mode)],
        help_text="act: recover stuck runs; dry_run: only record what would be done; off: do nothing.",
    )

    class Meta:
        model = KindControl
        fields = ("kind", "mode", "paused_until", "released_until")
        help_texts = {
            "paused_until": "No sweeps until then; afterwards the mode applies again.",
            "released_until": "The brake limits nothing until then.",
        }

    def clean_paused_until(self) -> datetime | None:
        """Return the end of the pause."""
        return self.clean_deadline("paused_until")

    def clean_released_until(self) -> datetime | None:
        """Return the end of the brake's release."""
        return self.clean_deadline("released_until")


class PolicyOverrideForm(forms.Form):
    """The policy of one kind as a person writes it: "1h 30m", "45s", "off". An empty field takes the configured value.

    Once it is valid, `values` has the overridden fields, and `policy` is what would be in effect.
    """

    def __init__(self, adapter: RunAdapter, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(data)
        self.adapter = adapter
        self.effective = effective_values(adapter)
        self.values: dict[str, Any] = {}
        self.policy = Policy()
        self.latest = latest_row(PolicyOverride, adapter)
        # What another operator has changed since the form was shown must not be undone unnoticed.
        self.fields["base_version"] = forms.IntegerField(
            required=False, initial=self.latest_version, widget=forms.HiddenInput
        )
        help_texts = field_docs(Policy)
        for name in OVERRIDABLE:
            each = self.effective[name]
            field = forms.CharField(required=False, label=name, help_text=help_texts.get(name, ""), max_length=200)
            field.widget.attrs["placeholder"] = format_value(each.configured)
            field.initial = format_value(each.value) if each.is_override else ""
            self.fields[name] = field

    @property
    def latest_version(self) -> int:
        """Return the key of the override row that the form builds on; 0 without one."""
        return self.latest.pk if self.latest else 0

    def clean(self) -> dict[str, Any]:
        """Parse each field, and check that they fit each other and the task; add a form error for each mistake."""
        self.values = {}
        if self.latest and self.cleaned_data.get("base_version") not in (None, self.latest_version):
            self.add_error(None, f"{self.latest.actor} has changed the policy in the meantime. Check it and try again.")
        for name in OVERRIDABLE:
            text = self.cleaned_data.get(name, "")
            try:
                if text.strip():
                    self.values[name] = parse_override(name, text)
            except InvalidValue as error:
                self.add_error(name, f"{name}: {error.problem}. {error.hint}")
        if not self.errors:
            self.policy = replace(conf.policy(self.adapter), **self.values)
            for found in checks.check_policy(self.adapter, self.policy):
                self.add_error(None, f"{found.msg} {found.hint}")
        return self.cleaned_data

    def save(self, actor: str) -> PolicyOverride:
        """Put the values into effect from the next sweep on; return the new row."""
        return set_overrides(self.adapter, actor, clock.now(self.adapter.using), self.values)


class ExemptionForm(KindForm):
    """A run that the reaper leaves alone."""

    run_id = forms.CharField(max_length=255, label="run's id")

    class Meta:
        model = Exemption
        fields = ("kind", "run_id", "until")
        help_texts = {"until": "Leave empty for no expiry."}

    def clean_until(self) -> datetime | None:
        """Return the end of the exemption."""
        return self.clean_deadline("until")

    def clean(self) -> dict[str, Any]:
        """Return the values with the run's id as its adapter writes it. Raise ValidationError without such a run."""
        values = super().clean() or self.cleaned_data
        if "kind" in values and "run_id" in values:
            run = conf.adapters()[values["kind"]].get(values["run_id"].strip())
            if run is None:
                raise forms.ValidationError({"run_id": f"There is no {values['kind']} run {values['run_id']!r}."})
            values["run_id"] = run.pk
        return values
