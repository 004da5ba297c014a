"""The path of an item from the view into a backend."""
