"""What an item takes along: arguments and results, and how they are written down."""
