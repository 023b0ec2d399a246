"""The web page of the search, and the server that it asks."""
