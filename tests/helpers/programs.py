"""Programs that are run in this process: the same main(), without seconds of imports."""

from hingeabl.errors import run_command_line


def ended(capsys, main, *arguments):
    """(exit status, standard output, standard error) of a program's main() as its command line runs it."""
    capsys.readouterr()
    try:
        run_command_line(lambda: main([str(argument) for argument in arguments]))
        status = 0
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()
