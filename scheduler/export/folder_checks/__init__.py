"""What `exports check` looks for in an export's folder, besides the digests of its files."""
