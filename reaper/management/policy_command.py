"""`manage.py reaper policy`: show, override or preview a kind's policy."""

import difflib
from collections.abc import Mapping, Sequence

from django.core.management.base import CommandError

from reaper.adapters import RunAdapter
from reaper.controls.append_only import latest_row
from reaper.controls.forms import PolicyOverrideForm
from reaper.controls.overrides import OVERRIDABLE, differences, effective_policy, effective_values, override_values
from reaper.core.fields import field_docs
from reaper.core.formatting import format_value
from reaper.core.policy import Policy
from reaper.management.arguments import AS_JSON, DRY_RUN, KIND, OVERRIDES, USER
from reaper.management.context import Context, ExitCode
from reaper.management.run_table import RunTable
from reaper.management.subcommand import Subcommand
from reaper.management.targets import actor_name, get_adapter
from reaper.models import PolicyOverride
from reaper.reports.json_output import policy_document, preview_document
from reaper.reports.judged import preview_policy

MAX_PREVIEWED = 20
"""Runs of a preview: enough to see what sort of runs they are. `--json` has all."""


def policy(context: Context, kind: str, overrides: Sequence[str], dry_run: bool, user: str | None) -> ExitCode:
    """Show the policy; with overrides, save them first or, as a dry run, preview them. Raise CommandError."""
    adapter = get_adapter(kind)
    if overrides:
        form = PolicyOverrideForm(adapter, {**current_overrides(adapter), **dict(map(parse_override, overrides))})
        if not form.is_valid():
            sentences = [str(each) for errors in form.errors.values() for each in errors]
            raise CommandError(f"{kind}: {' '.join(sentences)} Nothing was changed.", returncode=ExitCode.USAGE)
        if dry_run:
            return preview(context, form)
        row = form.save(actor_name(user))
        if not context.as_json:
            context.console.say(f"{kind}: {row.summary}. This takes effect with the next sweep.")
    show(context, adapter)
    return ExitCode.OK


def preview(context: Context, form: PolicyOverrideForm) -> ExitCode:
    """Print what the overridden policy would do with the runs of this moment."""
    judged = preview_policy(form.adapter, form.policy, None if context.as_json else MAX_PREVIEWED)
    if context.as_json:
        context.print_json(preview_document(judged))
        return ExitCode.OK
    context.console.title("Dry run: nothing is changed.")
    context.console.say("; ".join(differences(effective_policy(form.adapter), form.policy)) or "No changes.")
    RunTable(context.console).add(judged.acting.lines)
    context.console.say(f"{judged.acting.total:,} runs would be recovered.")
    return ExitCode.OK


def show(context: Context, adapter: RunAdapter) -> None:
    """Print each field of the policy with its effective value, and where that comes from."""
    values = effective_values(adapter)
    if context.as_json:
        context.print_json(policy_document(adapter.kind, values))
        return
    width = max(map(len, values))
    meanings = field_docs(Policy)
    for name, each in values.items():
        context.console.say(f"{name:{width}}  {format_value(each.value):14}  {each.source}")
        context.console.indented(meanings.get(name, ""))


def current_overrides(adapter: RunAdapter) -> Mapping[str, str]:
    """Return the overrides in effect, as they are written in a form."""
    values = override_values(adapter, latest_row(PolicyOverride, adapter))
    return {name: format_value(value) for name, value in values.items()}


def parse_override(text: str) -> tuple[str, str]:
    """Return NAME=VALUE as a pair. Raise CommandError for any other text, or an unknown name."""
    name, equals, value = text.partition("=")
    name = name.strip().lower()
    if not equals:
        raise CommandError(f"{text!r} is not NAME=VALUE, such as run_timeout=2h.", returncode=ExitCode.USAGE)
    if name not in OVERRIDABLE:
        near = difflib.get_close_matches(name, OVERRIDABLE, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Names are: {', '.join(OVERRIDABLE)}."
        raise CommandError(f"The policy has no {name!r}. {hint}", returncode=ExitCode.USAGE)
    return name, value


SUBCOMMANDS = (
    Subcommand("policy", "Show a kind's policy, or override it.", policy, [KIND, OVERRIDES, DRY_RUN, AS_JSON, USER]),
)
