"""The protocols of a ledger, one narrow protocol per aggregate. A ledger stores no text of documents.

No method needs atomicity across items except `Documents.swap`, which moves a source's cursor together with its
documents and their chunks.
"""
