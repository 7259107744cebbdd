"""Readers of file formats that public datasets come in: TFRecord, JSON of any size, Parquet, COCO's masks.

Each is a leaf: it knows nothing of records or sources, only bytes to values, and every damaged or truncated
file ends in a `RecordError` that says where.
"""
