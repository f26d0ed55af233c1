"""What lies below ``Files``: one small module per kind of medium, and one table that says what each promises.

The back ends of fsspec differ in the very places that matter here: exclusive creation, objects half written, stale
listings, silence, kinds of errors. All of that ends in this package, the only one that touches fsspec: a medium is
given keys relative to a URL, and keeps what the table promises for its protocol or refuses. Its errors may be
anyone's.
"""

from headrace.storage.media.medium import DEADLINE, Keys, Medium
from headrace.storage.media.table import PROTOCOLS, open_medium, private_memory

__all__ = ["DEADLINE", "PROTOCOLS", "Keys", "Medium", "open_medium", "private_memory"]
