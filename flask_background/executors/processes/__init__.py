"""Items in child processes: the parent's side, the child's side, and the pipes between them."""
