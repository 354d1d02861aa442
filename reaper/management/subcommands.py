"""The subcommands of `manage.py reaper`, in the groups in which `--help` lists them."""

from collections.abc import Mapping, Sequence

from reaper.management import act_commands, control_commands, look_commands, policy_command
from reaper.management.subcommand import Subcommand

GROUPS: Mapping[str, Sequence[Subcommand]] = {
    "Look": look_commands.SUBCOMMANDS,
    "Act": act_commands.SUBCOMMANDS,
    "Control": (*control_commands.SUBCOMMANDS, *policy_command.SUBCOMMANDS),
}
SUBCOMMANDS = {each.name: each for group in GROUPS.values() for each in group}


def list_by_group() -> str:
    """Return the help's list of the subcommands: a paragraph per group."""
    width = max(map(len, SUBCOMMANDS))
    paragraphs = [
        "\n".join([f"{title}:", *(f"  {each.name:{width}}  {each.help}" for each in group)])
        for title, group in GROUPS.items()
    ]
    return "\n\n".join(paragraphs)
