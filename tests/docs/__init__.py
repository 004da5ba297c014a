"""The pages of ``docs/``: their examples, commands and links."""
