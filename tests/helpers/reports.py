"""What report.py prints."""

import report


def printed(capsys, *arguments):
    report.main([str(argument) for argument in arguments])
    return capsys.readouterr().out
