"""Requests to hosts outside: to which addresses they go, and how long they may take."""
