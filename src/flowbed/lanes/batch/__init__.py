"""The batch lane: texts are sent to a provider's Batch API in files, and results come back in files hours later.

Finding and submitting load neither numpy nor an index.
"""
