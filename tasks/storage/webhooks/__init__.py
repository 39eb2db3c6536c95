"""Webhooks: the endpoints of a tenant, and what is to be delivered to each."""
