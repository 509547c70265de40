"""The only place that knows a host; each has the same two verbs: observe and guide."""
