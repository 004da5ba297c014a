"""Where the uploads of an item wait until a worker on another machine reads them."""
