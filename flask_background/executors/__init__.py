"""What runs items in this process."""
