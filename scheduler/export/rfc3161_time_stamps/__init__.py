"""Time stamps (RFC 3161) of the sealed shards of exports."""
