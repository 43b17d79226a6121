"""The server of `tinyldm serve`: a page for a person, and the endpoints that other programs speak (extra `web`)."""
