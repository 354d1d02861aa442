"""What people fill in to switch a kind of runs or to exempt one run, and what is refused of it."""

from datetime import datetime
from typing import Any

from django import forms

from reaper import clock, conf
from reaper.decisions import Mode
from reaper.models import Exemption, Switch
from reaper.switches import LONGEST


class OfKind(forms.ModelForm):
    """An order for one kind of runs."""

    kind = forms.ChoiceField(choices=lambda: [(kind, kind) for kind in conf.adapters()])

    def moment(self, name: str) -> datetime | None:
        """Return a field's moment. Raises ValidationError when it has passed, or is more than a year away."""
        until = self.cleaned_data[name]
        now = clock.now(conf.adapters()[self.cleaned_data["kind"]].using) if "kind" in self.cleaned_data else None
        if until and now and not now < until <= now + LONGEST:
            raise forms.ValidationError(f"{until:%Y-%m-%d %H:%M:%S %Z} is not within a year from now.")
        return until


class SwitchForm(OfKind):
    """How a kind is to be swept from now on. What is left empty is ended."""

    mode = forms.ChoiceField(
        required=False,
        choices=[("", "as the settings say"), *((str(each), str(each)) for each in Mode)],
        help_text="act: end and requeue runs; observe: only note down what would be done; off: do nothing.",
    )

    class Meta:
        model = Switch
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


class ExemptionForm(OfKind):
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
