"""A soak: a real gunicorn under load for minutes, and no item is lost, and nothing grows.

``python -m benchmarks.soak --minutes 10`` starts gunicorn with two workers. Clients enqueue items in memory,
coroutines, durable items and items for a child process, some of which fail and are tried again. Meanwhile the
memory, threads and descriptors of all processes are sampled. At the end gunicorn is told to stop. Every
acknowledged item must have ended exactly once, and the processes must not have grown. Otherwise the exit
status is 1.
"""
