"""What checkpoints call the tensors that the model file knows by canonical names.

One file each kind of source, with all the namings that occur there.
"""

from .places import Naming, Place, choose_naming

__all__ = ["Naming", "Place", "choose_naming"]
