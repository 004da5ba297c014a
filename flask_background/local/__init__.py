"""Items in the memory of this process: accepted, counted, delayed and stopped."""
