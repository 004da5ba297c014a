"""Items in the memory of this process: accepting, counting, delaying, stopping."""
