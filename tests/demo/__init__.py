"""The demo, driven as its visitors do."""
