# SPDX-License-Identifier: Apache-2.0
"""``jvpn completion``: the script a shell sources; click writes it."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from gateway.errors import JumpError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    Examples:
      jvpn completion bash > /etc/bash_completion.d/jvpn
      jvpn completion zsh > "${fpath[1]}/_jvpn"
      jvpn completion fish > ~/.config/fish/completions/jvpn.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise JumpError(f"no completion for {shell}")
    # Not source(): it runs the shell to ask for its version, and the script may be made on another machine.
    script = kind(ctx.find_root().command, {}, "jvpn", "_JVPN_COMPLETE")
    click.echo(script.source_template % script.source_vars())
