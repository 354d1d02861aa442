"""The subcommand by which a kind's thresholds are shown and edited."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from django.core.management.base import CommandError

from reaper.adapters import RunAdapter
from reaper.controls.append_only import latest_row
from reaper.controls.forms import PolicyOverrideForm
from reaper.controls.overrides import OVERRIDABLE, differences, effective_policy, effective_values, override_values
from reaper.core.fields import field_docs
from reaper.core.formatting import format_value
from reaper.core.policy import Policy
from reaper.management.control_commands import actor
from reaper.models import PolicyOverride
from reaper.reports.json_output import dumps, policy_document, preview_document
from reaper.reports.judged import preview_policy

USAGE = 2
# Lines of what an edit would do: enough to see what sort of runs they are.
SHOWN = 20


class Thresholds:
    """What `manage.py reaper policy` does. The command's own class has the rest."""

    page: Any
    adapter: Any
    stdout: Any

    def do_policy(self, kind: str, edits: Sequence[str], dry_run: bool, json: bool, user: str | None, **_: Any) -> int:
        """Show the thresholds; with edits, make them count first, or with `--dry-run` show what they would do."""
        adapter: RunAdapter = self.adapter(kind)
        if edits:
            form = PolicyOverrideForm(adapter, {**written(adapter), **dict(map(assignment, edits))})
            if not form.is_valid():
                sentences = [str(each) for found in form.errors.values() for each in found]
                raise CommandError(f"{kind}: {' '.join(sentences)} Nothing was changed.", returncode=USAGE)
            if dry_run:
                return self.preview(adapter, form, json)
            row = form.save(actor(user))
            if not json:
                self.page.say(f"{kind}: {row.summary}. This counts from the next sweep on.")
        self.show(adapter, json)
        return 0

    def preview(self, adapter: RunAdapter, form: PolicyOverrideForm, json: bool) -> int:
        """Print what the edited thresholds would do with the runs of this moment."""
        found = preview_policy(adapter, form.policy, None if json else SHOWN)
        if json:
            self.stdout.write(dumps(preview_document(found)))
            return 0
        self.page.title("Dry run: nothing is written.")
        self.page.say("; ".join(differences(effective_policy(adapter), form.policy)) or "nothing changes")
        self.page.runs(found.acting.lines)
        self.page.say(f"{found.acting.total} runs would be acted on.")
        return 0

    def show(self, adapter: RunAdapter, json: bool) -> None:
        """Print each threshold with where it comes from."""
        known = effective_values(adapter)
        if json:
            self.stdout.write(dumps(policy_document(adapter.kind, known)))
            return
        width = max(map(len, known))
        meanings = field_docs(Policy)
        for name, each in known.items():
            self.page.say(f"{name:{width}}  {format_value(each.value):14}  {each.source}")
            self.page.indented(meanings.get(name, ""))


def written(adapter: RunAdapter) -> Mapping[str, str]:
    """Return what is edited now, as a person writes it."""
    return {
        name: format_value(value)
        for name, value in override_values(adapter, latest_row(PolicyOverride, adapter)).items()
    }


def assignment(text: str) -> tuple[str, str]:
    """Return NAME=VALUE as a pair. Raises CommandError for what is none, or names no threshold."""
    name, equals, value = text.partition("=")
    name = name.strip().lower()
    if not equals:
        raise CommandError(f"{text!r} is not NAME=VALUE, such as run_timeout=2h.", returncode=USAGE)
    if name not in OVERRIDABLE:
        near = difflib.get_close_matches(name, OVERRIDABLE, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(OVERRIDABLE)}."
        raise CommandError(f"{name!r} is no threshold. {hint}", returncode=USAGE)
    return name, value
