"""The rules of ``check_rules``, one file for each."""
