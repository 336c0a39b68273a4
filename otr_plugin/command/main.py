"""The group of verbs. A verb is a module of verbs/: a new one is found without a change here."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

import click

from otr_plugin import __version__
from otr_plugin.command import verbs


class Verbs(click.Group):
    """Finds the verbs in their folder. A verb imports what it needs when it runs, so that --help stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(module.name for module in pkgutil.iter_modules(verbs.__path__))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"{verbs.__name__}.{name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from difflib import get_close_matches

        near = get_close_matches(args[0], self.list_commands(ctx), n=1)
        if near and args[0] not in self.list_commands(ctx):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)


EXAMPLES = """\b
Examples:
  otr add recipe.yaml --diff          what would change
  otr add recipe.yaml -o otr.yaml     the recipe with OTR, in a new file
  otr check otr.yaml                  whether it trains as it reads
  otr remove otr.yaml --in-place      the recipe as it was
  otr memory otr.yaml --gpu rtx4090   whether it fits, before it runs
  otr share outputs/run -o shared     what a finished run was, for others
  otr compare out/sft out/otr         two runs side by side

\b
Exit codes: 0 good, 1 a problem was found, 2 wrong usage or unreadable file, 3 cannot tell.
"""


@click.group(cls=Verbs, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="otr-plugin %(version)s")
def command() -> None:
    """One-Token Rollout for recipes of Axolotl, LLaMA-Factory, TRL and ms-swift."""


def main() -> None:
    command(prog_name="otr")
