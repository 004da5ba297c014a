"""What needs Redis as the result backend or the broker."""
