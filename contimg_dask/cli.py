"""The command line: one group of commands, each loaded when it is used. No rule of the domain."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version

import click

from contimg_dask.reporting import EXIT_INTERRUPTED
from contimg_dask.settings import apply_process_environment

_COMMANDS = {
    "convert": ("cli_convert:convert", "Convert every complete group in a directory."),
    "convert-group": ("cli_convert:convert_group", "Convert exactly these files as one group."),
    "submit": ("cli_submit:submit_command", "Queue a backlog for the dispatcher."),
    "stream": ("cli_stream:stream_command", "Convert what the telescope writes, as it comes."),
    "dispatch": ("cli_dispatch:dispatch_command", "Convert what is queued, until stopped."),
    "status": ("cli_status:status_command", "Say how the queue does."),
    "groups": ("cli_queue:groups_command", "List groups, with what became of them and why."),
    "retry": ("cli_queue:retry_command", "Queue groups again."),
    "cancel": ("cli_queue:cancel_command", "Cancel a job or a group."),
    "pause": ("cli_queue:pause_command", "Begin no more groups."),
    "resume": ("cli_queue:resume_command", "Go on after a pause."),
    "drain": ("cli_queue:drain_command", "Begin no more groups on a node."),
    "undrain": ("cli_queue:undrain_command", "Use a node again."),
    "products": ("cli_catalogue:products_command", "List published products."),
    "reconcile": ("cli_catalogue:reconcile_command", "Put the catalogue right by the disk."),
    "catalogue": ("cli_catalogue:catalogue_group", "Upgrade and look at the catalogue."),
    "inputs": ("cli_products:inputs_command", "List input files that are safely converted."),
    "sweep": ("cli_products:sweep_command", "Remove what killed conversions left behind."),
    "verify": ("cli_tools:verify_command", "Check a product, also against its input."),
    "simulate": (
        "cli_tools:simulate_command",
        "Write subband files with known sources and faults.",
    ),
    "doctor": ("cli_tools:doctor_command", "Tell what on this machine would hurt."),
    "config": ("cli_tools:config_group", "Settings and where they come from."),
    "cluster": ("cli_cluster:cluster_group", "A cluster of several hosts: render, check."),
}
"""Name -> where the command is, and its line in ``--help``, which loads none of them."""


class _LoadedWhenUsed(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"contimg_dask.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LoadedWhenUsed, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("contimg-dask"), prog_name="contimg-dask")
def cli() -> None:
    """Convert DSA-110 subband files to Measurement Sets on a Dask cluster.

    \b
    contimg-dask convert incoming/ products/     every complete group
    contimg-dask verify MS --input incoming/     every value against its input
    contimg-dask doctor products/                what on this machine would hurt
    """


def main() -> None:
    """Run the command line; exit with 2 for wrong use and 130 when interrupted."""
    apply_process_environment()
    try:
        cli(prog_name="contimg-dask", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("contimg-dask: interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
