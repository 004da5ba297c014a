"""Items that survive their process: enqueueing, running and recovery with a journal."""
