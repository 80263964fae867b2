"""The command line as a user calls it."""

from typer.testing import CliRunner, Result

from normpipe.pipeline.commands import app as cli


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def refused(result: Result, *words: str) -> str:
    """Check that a bad input gave one line, status 2 and no traceback; return the line."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("normpipe: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.output + result.stderr
    for word in words:
        assert word in lines[0], lines[0]
    return lines[0]
