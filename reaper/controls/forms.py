"""What people fill in to switch a kind of runs or to exempt one run, and what is refused of it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django import forms

from reaper import checks
from reaper.adapters import RunAdapter
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.controls import overrides as policies
from reaper.controls.modes import LONGEST
from reaper.core.formatting import format_value
from reaper.core.policy import Mode, Policy
from reaper.exceptions import InvalidValue
from reaper.models import Exemption, KindControl, PolicyOverride


class KindForm(forms.ModelForm):
    """An order for one kind of runs."""

    kind = forms.ChoiceField(choices=lambda: [(kind, kind) for kind in conf.adapters()])

    def moment(self, name: str) -> datetime | None:
        """Return a field's moment. Raises ValidationError when it has passed, or is more than a year away."""
        until = self.cleaned_data[name]
        now = clock.now(conf.adapters()[self.cleaned_data["kind"]].using) if "kind" in self.cleaned_data else None
        if until and now and not now < until <= now + LONGEST:
            raise forms.ValidationError(f"{until:%Y-%m-%d %H:%M:%S %Z} is not within a year from now.")
        return until


class KindControlForm(KindForm):
    """How a kind is to be swept from now on. What is left empty is ended."""

    mode = forms.ChoiceField(
        required=False,
        choices=[("", "as the settings say"), *((str(each), str(each)) for each in Mode)],
        help_text="act: end and requeue runs; observe: only note down what would be done; off: do nothing.",
    )

    class Meta:
        model = KindControl
        fields = ("kind", "mode", "paused_until", "released_until")
        help_texts = {
            "paused_until": "Its sweeps do nothing until then; afterwards they do again what the mode says.",
            "released_until": "The brake holds nothing until then: you have looked.",
        }

    def clean_paused_until(self) -> datetime | None:
        """Return the end of the pause."""
        return self.moment("paused_until")

    def clean_released_until(self) -> datetime | None:
        """Return the end of the brake's release."""
        return self.moment("released_until")


# What each threshold is, for a person who edits it.
MEANING = {
    "run_timeout": "A run that is running for longer is stuck.",
    "queue_timeout": "A run that waits for longer is warned of.",
    "stall_timeout": "A held run without progress for longer is stuck; off: none is.",
    "orphan_grace": "A running run that has shown itself within this time is left alone.",
    "lost_grace": "A waiting run that is younger is left alone.",
    "alert_after": "A run that is running for longer is warned of.",
    "on_timeout": "fail, or requeue where the work may be done twice.",
    "on_orphan": "fail, or requeue where the work may be done twice.",
    "max_requeues": "Requeues of a run that had been started; then it is failed as poison.",
    "max_redispatches": "Requeues of a run that had not been started.",
    "max_interruptions": "Requeues of a run that was cut off by a deploy.",
    "backoff": "Waiting time after the first, second and every further action on the same run.",
    "max_actions": "Runs acted on in one sweep.",
}


class PolicyOverrideForm(forms.Form):
    """The thresholds of one kind as a person writes them: "1h 30m", "45s", "off". Empty is as the settings say."""

    def __init__(self, adapter: RunAdapter, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(data)
        self.adapter, self.known = adapter, policies.effective_values(adapter)
        # The thresholds that are edited, and all that would count then; once the form is valid.
        self.values: dict[str, Any] = {}
        self.policy = Policy()
        # Which edit the form was filled in after: what somebody has edited meanwhile is not undone unseen.
        row = policies.latest(adapter)
        self.latest, self.actor = (row.pk, row.actor) if row else (0, "")
        self.fields["seen"] = forms.IntegerField(required=False, initial=self.latest, widget=forms.HiddenInput)
        for name in policies.NAMES:
            value, _, without = self.known[name]
            field = forms.CharField(required=False, label=name, help_text=MEANING[name], max_length=200)
            field.widget.attrs["placeholder"] = format_value(without)
            field.initial = format_value(value) if self.is_edited(name) else ""
            self.fields[name] = field

    def is_edited(self, name: str) -> bool:
        """Return whether somebody has edited a threshold."""
        return self.known[name].origin.startswith("edited")

    def clean(self) -> dict[str, Any]:
        """Read each threshold, and look whether they fit together and to the task. Adds the sentences as errors."""
        self.values = {}
        if self.cleaned_data.get("seen") not in (None, self.latest):
            self.add_error(None, f"{self.actor} has edited it meanwhile: look again.")
        for name in policies.NAMES:
            text = self.cleaned_data.get(name, "")
            try:
                if text.strip():
                    self.values[name] = policies.parse_threshold(name, text)
            except InvalidValue as wrong:
                self.add_error(name, f"{name} {wrong.problem}. {wrong.hint}")
        if not self.errors:
            self.policy = Policy(**{**policies.as_dict(conf.policy(self.adapter)), **self.values})
            for found in checks.check_policy(self.adapter, self.policy):
                self.add_error(None, f"{found.msg} {found.hint}")
        return self.cleaned_data

    def save(self, by: str) -> PolicyOverride:
        """Have the thresholds count from the next sweep on; return the row of the history."""
        return policies.set_overrides(self.adapter, by, clock.now(self.adapter.using), self.values)


class ExemptionForm(KindForm):
    """A run that is to be left alone."""

    run_id = forms.CharField(max_length=255, label="run's id")

    class Meta:
        model = Exemption
        fields = ("kind", "run_id", "until")
        help_texts = {"until": "Empty: for good."}

    def clean_until(self) -> datetime | None:
        """Return the end of the exemption."""
        return self.moment("until")

    def clean(self) -> dict[str, Any]:
        """Return the values with the run's id as its adapter writes it. Raises ValidationError without such a run."""
        values = super().clean() or self.cleaned_data
        if "kind" in values and "run_id" in values:
            run = conf.adapters()[values["kind"]].get(values["run_id"].strip())
            if run is None:
                raise forms.ValidationError({"run_id": f"There is no {values['kind']} run {values['run_id']!r}."})
            values["run_id"] = run.pk
        return values
