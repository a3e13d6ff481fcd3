"""The batch lane: texts handed to a provider's Batch API in files, and answered in files hours later.

Nothing here knows of chunks, nor loads what an index or a model needs: texts go by their text_hash.
"""
