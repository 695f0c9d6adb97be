"""Models on this machine: from a name to checked files, and the memory that they need.

    >>> import llms
    >>> [row.name for row in llms.models.ls()][:1]
    ['mistral-7b']
    >>> llms.models.pull("mistral-7b")  # doctest: +SKIP

`load` is the way from a name to a loaded model. `Registry` has more for a program with its own folders.
"""

import lazy_loader

__all__ = ["ls", "pull", "remove", "show"]
__getattr__, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)
