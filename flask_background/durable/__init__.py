"""Items that survive their process: the journal's side of enqueue, run and recovery."""
