"""The arguments, results and state of items, and their form as text."""
