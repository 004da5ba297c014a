"""The item, its run, and what every other room knows of them."""
