"""Webhooks: events are delivered to the endpoints of tenants, as Standard Webhooks describes it (decision 0044)."""
