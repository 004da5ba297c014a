"""What a durable item costs, beside other queues that keep items on this machine; see ``measures.py``."""
