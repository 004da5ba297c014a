"""The rules of ``check_walls``, one file for each wall."""
