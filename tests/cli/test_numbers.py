"""No option of any command takes a number that is none."""

import click
import pytest
from click.testing import CliRunner

from aether_sync.cli._commands import commands

OPTIONS = [
    (command.name, option)
    for command in commands.commands.values()
    for option in command.params
    if isinstance(option.type, click.types.FloatParamType)
]


def test_the_options_were_found() -> None:
    assert {option.opts[0] for _, option in OPTIONS} == {"--timeout", "--seconds", "--rate", "--grace"}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "NaN", "1e999"])
@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=lambda one: getattr(one, "name", one))
def test_it_is_out_of_the_range(command: str, option: click.Option, value: str) -> None:
    result = CliRunner().invoke(commands.commands[command], [option.opts[0], value])
    number = float(value)
    assert result.exit_code == (1 if command == "health" else 2)
    assert f"'{option.opts[0]}': {number} is not in the range" in result.output
