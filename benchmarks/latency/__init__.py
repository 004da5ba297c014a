"""How much slower a view becomes while items compute: a real gunicorn, asked 100 times a second."""
