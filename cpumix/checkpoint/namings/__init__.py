"""What checkpoints call the tensors that the model file knows by canonical names.

One file each kind of source, with all the namings that occur there.
"""

from .places import EMBEDDING, HEAD, ROUTER, Naming, Place, Wanted, choose_naming, wanted

__all__ = ["EMBEDDING", "HEAD", "ROUTER", "Naming", "Place", "Wanted", "choose_naming", "wanted"]
