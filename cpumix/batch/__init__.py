"""Batches: one file of requests in, one file of answers out, on this machine or on Ray."""
