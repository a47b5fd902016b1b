"""Plumbing that every process shares: settings, Kafka clients, codecs, object store, tapes, telemetry, lifecycle.

Nothing here knows a stage, a sink or a venue.
"""
