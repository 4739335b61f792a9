"""Audits of data and models: what could be answered without looking, and what leaked."""
